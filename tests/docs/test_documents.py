"""README.md and docs/: links lead somewhere, Python blocks run, commands have the options they are shown with."""

import argparse
import re
import shlex
from pathlib import Path

import pytest
from huggingface_hub.utils import disable_progress_bars
from matplotlib import pyplot


ROOT = Path(__file__).parents[2]
DOCUMENTS = sorted([ROOT / "README.md", ROOT / "CHANGELOG.md", *(ROOT / "docs").glob("*.md")])
NAMES = [str(path.relative_to(ROOT)) for path in DOCUMENTS]


def prose_of(text: str) -> str:
    """The text without its code blocks and code spans."""
    return re.sub(r"`[^`\n]*`", "", re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL))


def anchors_of(path: Path) -> set[str]:
    """The anchors that GitHub makes of a document's headings."""
    headings = re.findall(r"^#+ (.*)$", re.sub(r"^```.*?^```$", "", path.read_text("utf-8"), flags=re.M | re.S), re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("document", DOCUMENTS, ids=NAMES)
def test_links_lead_somewhere(document):
    """Files and headings of this repository; the world's addresses are not asked."""
    broken = []
    for target in re.findall(r"\]\(([^)\s]+)\)", prose_of(document.read_text("utf-8"))):
        if re.match(r"[a-z]+:", target):
            continue
        file, _, anchor = target.partition("#")
        path = (document.parent / file).resolve() if file else document
        if not path.exists() or (anchor and path.suffix == ".md" and anchor not in anchors_of(path)):
            broken.append(target)
    assert not broken


def blocks(document: Path, language: str) -> list[tuple[str, str]]:
    """Code blocks of a language as pairs of the line above and the code."""
    pattern = rf"^(?P<above>[^\n]*)\n```{language}\n(?P<code>.*?)^```$"
    found = re.finditer(pattern, document.read_text("utf-8"), flags=re.MULTILINE | re.DOTALL)
    return [(match["above"], match["code"]) for match in found]


def runnable(document: Path) -> list[str]:
    return [code for above, code in blocks(document, "python") if not above.startswith("<!-- not run")]


RUNNABLE = [path for path in DOCUMENTS if runnable(path)]


@pytest.mark.parametrize("document", RUNNABLE, ids=[str(path.relative_to(ROOT)) for path in RUNNABLE])
def test_python_blocks_run(document, photo, tmp_path, monkeypatch):
    """One after another, as a reader would, with a photo.jpg beside them and no network."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    photo.save("photo.jpg")
    disable_progress_bars()
    namespace = {}
    for code in runnable(document):
        exec(compile(code, str(document), "exec"), namespace)
    pyplot.close("all")


def commands(document: Path) -> list[list[str]]:
    """The words of each command in a document's shell blocks."""
    found = []
    for _, code in blocks(document, "bash"):
        for line in re.sub(r"\\\n", " ", code).splitlines():
            for command in line.split("&&"):
                words = shlex.split(command, comments=True)
                while words and "=" in words[0]:  # variables that are set for the command
                    words = words[1:]
                found += [words] if words else []
    return found


def options_of(words: list[str]) -> list[str]:
    """The options among words, and those in a quoted word, which are another script's."""
    return [word.partition("=")[0] for word in " ".join(words).split() if re.match(r"--?[a-z]", word)]


ALL_COMMANDS = [(path, words) for path in DOCUMENTS for words in commands(path)]


def test_rsic_commands_have_the_options_that_they_are_shown_with():
    from rsic_diffusers.commands.rsic_cli import build_parser

    subparsers = next(a for a in build_parser()._actions if isinstance(a, argparse._SubParsersAction)).choices
    shown = [words for _, words in ALL_COMMANDS if words[0] == "rsic"]
    assert len(shown) >= 5
    for words in shown:
        known = subparsers[words[1]]._option_string_actions
        unknown = [option for option in options_of(words[2:]) if option not in known]
        assert not unknown, f"{' '.join(words)}: {unknown}"


def script_of(words: list[str]) -> Path | None:
    """The file of this repository that a command runs, whatever launches it."""
    for i, word in enumerate(words):
        if word.endswith(".py"):
            return ROOT / word
        if word == "-m" and i + 1 < len(words) and words[i + 1].startswith("rsic_diffusers"):
            return ROOT / (words[i + 1].replace(".", "/") + ".py")
    return None


SCRIPTS = [(words, script_of(words)) for _, words in ALL_COMMANDS if script_of(words)]


@pytest.mark.parametrize(("words", "script"), SCRIPTS, ids=[" ".join(words)[:80] for words, _ in SCRIPTS])
def test_scripts_have_the_options_that_they_are_shown_with(words, script):
    """Read in the scripts' text and in what they share, which takes no import of torch."""
    assert script.exists()
    shared = [*script.parent.glob("*.py"), *(ROOT / "rsic_diffusers/commands").glob("*.py")]
    text = "".join(path.read_text("utf-8") for path in dict.fromkeys([script, *shared]))
    after = words[
        next(i for i, word in enumerate(words) if word.endswith(".py") or word.startswith("rsic_diff")) + 1 :
    ]
    unknown = [option for option in options_of(after) if f'"{option}"' not in text]
    assert not unknown, unknown
