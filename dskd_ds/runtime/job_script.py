"""The job scripts that ship in slurm/, and how their options and settings are filled in.

A script is valid as it ships. Its options are lines `#SBATCH --KEY=VALUE` or `#SBATCH --KEY`; its
settings are lines `NAME=VALUE` of bash between two marks. A comment above each line explains it,
and stays.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable, Mapping
from pathlib import Path

from dskd_ds.errors import InputError

FOLDER = "slurm"
OPTION = "#SBATCH "
SETTINGS_BEGIN = "# ---- settings"
SETTINGS_END = "# ---- end of the settings"
ENVIRONMENT_FILE = "environment.sh"


def script_path(name: str) -> Path:
    """Return the path of a file that ships in slurm/."""
    return Path(__file__).parents[1] / FOLDER / name


def environment_path(given: str | None) -> Path:
    """Return the absolute path of the file with the site's modules and variables.

    given: the user's choice. By default it is slurm/environment.sh of the current folder, else the
    file that ships. Raises InputError if the given file is missing.
    """
    if given is not None:
        if not Path(given).is_file():
            raise InputError(
                f"--environment {given}: there is no such file.\n"
                f"  copy {script_path(ENVIRONMENT_FILE)} and edit it for your site."
            )
        return Path(given).resolve()
    local = Path(FOLDER) / ENVIRONMENT_FILE
    return (local if local.is_file() else script_path(ENVIRONMENT_FILE)).absolute()


def filled_script(
    text: str,
    *,
    options: Mapping[str, str],
    settings: Mapping[str, str],
    second_component: Mapping[str, str] | None = None,
) -> str:
    """Return a shipped script with other options and settings.

    options: option of sbatch, without dashes -> value; "" for an option without a value. One that
        the script has is replaced, another is added below the last one.
    settings: name -> value as bash code.
    second_component: options of the second component of a heterogeneous job.
    Raises KeyError if the script has no such setting.
    """
    lines = _with_options(text.splitlines(), options)
    if second_component is not None:
        component = ["#SBATCH hetjob", "# The second component: the teachers' nodes."]
        component += [_option_line(key, value) for key, value in second_component.items()]
        _insert_after_options(lines, component)
    return "\n".join(_with_settings(lines, settings)) + "\n"


def _with_options(lines: list[str], options: Mapping[str, str]) -> list[str]:
    result = list(lines)
    added = []
    for key, value in options.items():
        pattern = re.compile(rf"{OPTION}--{re.escape(key)}(=|$)")
        found = [index for index, line in enumerate(result) if pattern.match(line)]
        if found:
            result[found[0]] = _option_line(key, value)
        else:
            added.append(_option_line(key, value))
    if added:
        _insert_after_options(result, ["# Further options of this submission.", *added])
    return result


def _option_line(key: str, value: str) -> str:
    # sbatch splits a line at spaces, as a shell does.
    return f"{OPTION}--{key}={shlex.quote(value)}" if value else f"{OPTION}--{key}"


def _insert_after_options(lines: list[str], new: list[str]) -> None:
    last = max(index for index, line in enumerate(lines) if line.startswith(OPTION))
    lines[last + 1 : last + 1] = new


def _with_settings(lines: list[str], settings: Mapping[str, str]) -> list[str]:
    begin = next(index for index, line in enumerate(lines) if line.startswith(SETTINGS_BEGIN))
    end = next(index for index, line in enumerate(lines) if line.startswith(SETTINGS_END))
    result = list(lines)
    for name, value in settings.items():
        found = [index for index in range(begin, end) if lines[index].startswith(f"{name}=")]
        if not found:
            raise KeyError(f"the script has no setting {name}")
        result[found[0]] = f"{name}={value}"
    return result


def bash_string(value: str | Path | int) -> str:
    """Return a value as one word of bash."""
    return shlex.quote(str(value))


def bash_array(values: Iterable[str]) -> str:
    """Return values as an array of bash."""
    return f"({shlex.join(values)})"
