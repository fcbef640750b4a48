"""What the README and docs say to run and to read is there: modules, flags, configs, files."""

import importlib
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tools.command import BY_CONFIG, COMMANDS

ROOT = Path(__file__).parents[1]
PAGES = sorted(
    [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").rglob("*.md"), *(ROOT / "tools").rglob("*.md")]
)
ELSEWHERE = {"tools.prepare": {"direct_num_workers", "runner"}, "tools.launch": None}  # Beam's own; what it passes on


def commands():
    """(page, words) of every command of ours in a block of shell."""
    for page in PAGES:
        for block in re.findall(r"```sh\n(.*?)```", page.read_text(), re.S):
            for line in block.replace("\\\n", " ").splitlines():
                words = shlex.split(line.split(" | ")[0], comments=True)
                if words[:2] == ["python", "-m"]:
                    yield page, words[2:]
                elif words[:1] == ["tokenloom"]:
                    module, _ = COMMANDS[words[1]]
                    rest = words[2:]
                    if words[1] in BY_CONFIG and not rest[0].startswith("-"):
                        rest = [f"--config={rest[0]}", *rest[1:]]
                    yield page, [module, *rest]


COMMON = [pytest.param(page, words, id=f"{page.stem}: {' '.join(words)[:60]}") for page, words in commands()]


def source(module: str) -> str:
    """The text of a program, and of the one whose flags it shares."""
    path = ROOT / module.replace(".", "/")
    text = "".join(
        f.read_text() for f in ([path.with_suffix(".py")] if not path.is_dir() else sorted(path.glob("*.py")))
    )
    return text + (ROOT / "pretrain/__main__.py").read_text() * (module == "pretrain.finetune")


@pytest.mark.parametrize("page, words", COMMON)
def test_commands_name_modules_flags_and_configs_that_are_there(page, words):
    module, *rest = words
    text = source(module)
    shared = "options(" in text and module.startswith("tools.experiments")
    known = ELSEWHERE.get(module, set())
    for word in rest:
        name, _, value = word.removeprefix("--").partition("=")
        if not word.startswith("--") or name.startswith("config.") or known is None or name in known:
            continue
        assert shared or f'"{name}"' in text or f'"--{name}"' in text or name == "config", f"{module} has no --{name}"
        if name == "config" and value.startswith("configs/") and not re.search("[A-Z]{4}|…", value):
            file, _, arg = value.partition(":")
            get = importlib.import_module(file.removesuffix(".py").replace("/", ".")).get_config
            assert get(*[arg] * bool(arg))


def test_there_are_commands():
    assert len(COMMON) > 40 and {words[0] for _, words in commands()} > {"pretrain", "pretrain.evals", "tools.start"}


@pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(ROOT)))
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        file, _, anchor = target.partition("#")
        if "://" in target:
            continue
        found = page.parent / file if file else page
        assert found.exists(), target
        if anchor:
            titles = re.findall(r"(?m)^#+ (.*)$", found.read_text())
            assert anchor in {re.sub(r"[^\w\- ]", "", t.lower()).replace(" ", "-") for t in titles}, target


def test_the_readme_is_a_page():
    assert len((ROOT / "README.md").read_text().splitlines()) <= 140


@pytest.mark.slow
def test_the_site_is_made_without_a_warning(tmp_path):
    pytest.importorskip("zensical")
    shutil.copytree(ROOT / "docs", tmp_path / "docs")
    config = (tmp_path / "docs" / "mkdocs.yml").read_text()
    assert "[../..]" in config
    (tmp_path / "mkdocs.yml").write_text(config.replace("[../..]", f"[{ROOT}]"))
    command = [sys.executable, "-m", "zensical", "build", "--strict"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-3000:]
    assert "pretrain.open" in (tmp_path / "site" / "api" / "pretrain.html").read_text()
