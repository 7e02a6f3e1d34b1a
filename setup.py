"""Lists the packages. One of them, ds_configs/, is beside dskd_ds/: pyproject.toml cannot say so.

In a wheel these files are dskd_ds/ds_configs/; in a checkout they stay where they are.
"""

from setuptools import find_packages, setup

setup(
    packages=[
        *find_packages(include=["dskd_ds", "dskd_ds.*"]),
        "dskd_ds.ds_configs",
        "dskd_ds.ds_configs.runs",
    ],
    package_dir={"dskd_ds.ds_configs": "ds_configs"},
)
