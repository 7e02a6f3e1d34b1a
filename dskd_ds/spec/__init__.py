"""The run spec: describes a whole run and is validated before anything starts. Loads no torch."""

from dskd_ds.spec.home import dskd_home
from dskd_ds.spec.load import SPEC_FILE, load_spec, spec_toml, write_spec
from dskd_ds.spec.run import RunSpec

__all__ = ["SPEC_FILE", "RunSpec", "dskd_home", "load_spec", "spec_toml", "write_spec"]
