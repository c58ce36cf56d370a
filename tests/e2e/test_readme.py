"""What the README says is run as written, with nano where it names a model of the hub."""

import re
import shlex
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"```(\w+)\n(.*?)```", README, flags=re.DOTALL)
COMMANDS = [
    line.partition("#")[0].strip()
    for kind, block in BLOCKS
    if kind == "sh"
    for line in block.splitlines()
    if "bark-serve " in line
]


def test_python_example_runs():
    (code,) = [block for kind, block in BLOCKS if kind == "python"]
    code = code.replace('"suno/bark-small"', '"nano"').replace('voice="v2/en_speaker_6", ', "")
    names: dict = {}
    exec(compile(code, "README.md", "exec"), names)
    assert names["clip"].duration_s > 0
    names["bark"].close()


@pytest.mark.parametrize("command", COMMANDS)
def test_command_and_its_options_exist(run, command):
    words = shlex.split(command.split("bark-serve ", 1)[1])
    subcommand = [word for word in words[:2] if word.isalpha()]
    shown = run(*subcommand, "--help").stdout
    for word in words:
        if word.startswith("-"):
            assert re.search(rf"{re.escape(word)}\b", shown), word


def test_every_file_of_the_tree_exists_and_none_is_missing():
    (tree,) = [
        block for _, block in re.findall(r"```(\w*)\n(pipeline/\n.*?)```", README, re.DOTALL)
    ]
    folders = [ROOT / "pipeline", ROOT / "deployments"]
    for path in (path for folder in folders for path in folder.glob("*.py")):
        if path.name != "__init__.py":
            assert path.name in tree, f"{path.name} is not in the README's tree"
    for name in re.findall(r"[\w/]+\.py\b", tree):
        found = [path for folder in folders for path in folder.rglob(name)]
        assert found, f"{name} is in the tree but not on disk"


def test_decisions_are_numbered_without_gaps():
    names = sorted(path.name for path in (ROOT / "docs" / "decisions").glob("*.md"))
    assert [int(name[:4]) for name in names] == list(range(1, len(names) + 1))
