"""Imports point one way, read from the syntax trees of all files."""

import ast
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("data_pipeline", "pretrain", "configs", "tools")

# Rooms from the ground up: a room imports only rooms before it, and itself. What the first holds is for all.
ROOMS = (
    (
        "data_pipeline",
        "pretrain.sharding",
        "pretrain.parameters",
        "pretrain.chips",
        "pretrain.storage",
        "pretrain.lock",
        "pretrain.digests",
        "pretrain.finite",
        "pretrain.frozen",
        "pretrain.config_flag",
        "pretrain.schedule",
    ),
    ("pretrain.ops",),
    ("pretrain.models",),
    ("pretrain.tokenizers",),
    ("pretrain.objectives",),
    (
        "pretrain.gradcache",
        "pretrain.references",
        "pretrain.optim",
        "pretrain.ways",
        "pretrain.initialize",
        "pretrain.data_init",
    ),
    ("pretrain.adapt",),
    ("pretrain.step",),
    ("pretrain.runtime", "pretrain.starts"),
    ("pretrain.checkpoint", "pretrain.metrics", "pretrain.data"),
    ("pretrain.build",),
    ("pretrain.restore",),
    ("pretrain.program", "pretrain.flops", "pretrain.executable", "pretrain.inherit"),
    ("pretrain.generate",),
    ("pretrain.evals", "pretrain.interop"),
    ("pretrain.opened",),
    ("pretrain.train",),
    ("pretrain.phases",),
    ("pretrain.dtype",),
    ("pretrain.__main__",),
    ("pretrain.finetune",),
)


def files(*packages):
    """(dotted name, syntax tree) of every file."""
    for package in packages:
        for path in sorted((ROOT / package).rglob("*.py")):
            name = ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
            yield name, ast.parse(path.read_text())


def imported(tree, *, top_level=False):
    """Every name that is imported, dotted: `from a import b` gives `a` and `a.b`. top_level: outside functions only."""
    stack, names = [tree], set()
    while stack:
        node = stack.pop()
        if isinstance(node, ast.Import):
            names |= {a.name for a in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            names |= {node.module, *(f"{node.module}.{a.name}" for a in node.names)}
        if not (top_level and isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda))):
            stack += ast.iter_child_nodes(node)
    return names


def under(names, *packages):
    return sorted(n for n in names if any(n == p or n.startswith(f"{p}.") for p in packages))


def offenders(packages, forbidden, *, but=(), **kw):
    found = {name: under(imported(tree, **kw), *forbidden) for name, tree in files(*packages) if name not in but}
    return {name: bad for name, bad in found.items() if bad}


def room_of(name):
    return next((i for i, room in enumerate(ROOMS) if under([name], *room)), None)


def test_there_is_something_to_read():
    assert len(list(files(*PACKAGES))) > 30
    assert imported(ast.parse("import a.b\ndef f():\n  from c import d")) == {"a.b", "c", "c.d"}
    assert imported(ast.parse("import a.b\ndef f():\n  from c import d"), top_level=True) == {"a.b"}


def test_every_file_has_a_room():
    homeless = [name for name, _ in files("pretrain", "data_pipeline") if room_of(name) is None]
    assert homeless == ["pretrain"]


def test_no_room_imports_a_later_one():
    for name, tree in files("pretrain"):
        for target in under(imported(tree), "pretrain", "data_pipeline"):
            if room_of(name) is not None and room_of(target) is not None:
                assert room_of(target) <= room_of(name), f"{name} imports {target}"


def test_rooms_of_one_floor_do_not_import_each_other():
    for name, tree in files("pretrain"):
        floor = room_of(name)
        if floor in (None, 0):
            continue
        own = next(r for r in ROOMS[floor] if under([name], r))
        neighbours = [r for r in ROOMS[floor] if r != own]
        assert not under(imported(tree), *neighbours), f"{name} imports a room beside its own"


def test_sharding_and_roles_are_leaves():
    trees = dict(files("pretrain"))
    assert not under(imported(trees["pretrain.parameters"]), *PACKAGES)
    assert not [n for n in under(imported(trees["pretrain.sharding"]), *PACKAGES) if "pretrain.parameters" not in n]


def test_the_network_knows_only_the_spec_of_the_data():
    rooms = [r for room in ROOMS[1:7] for r in room]
    for name, tree in files("pretrain"):
        if under([name], *rooms):
            names = ("", ".Modality", ".check_modalities", ".DENSE", ".SPANS")
            assert set(under(imported(tree), "data_pipeline")) <= {f"data_pipeline.spec{n}" for n in names}, name


def test_the_data_pipeline_knows_nothing_of_jax_or_the_trainer():
    assert not offenders(
        ["data_pipeline"], ["jax", "jaxlib", "flax", "optax", "orbax", "torch", "pretrain", "tools", "configs"]
    )


def test_nothing_imports_configs_or_tools():
    assert not offenders(["pretrain", "data_pipeline", "configs"], ["tools"])
    assert not offenders(["pretrain", "data_pipeline", "tools"], ["configs"])


def test_configs_need_only_ml_collections_and_specs():
    free = {"ml_collections", "configs", *sys.stdlib_module_names}
    for name, tree in files("configs"):
        found = {n for n in imported(tree) if n.split(".")[0] not in free}
        bad = found - set(under(found, "data_pipeline.fourm"))
        assert not bad, f"{name} imports {bad}"


def test_evals_generate_and_interop_never_import_the_trainer():
    assert not offenders(["pretrain/evals", "pretrain/generate", "pretrain/interop"], ["pretrain.train"])


def test_only_checkpoint_imports_orbax():
    assert not offenders(PACKAGES, ["orbax"], but=["pretrain.checkpoint"])


def test_only_build_reads_configs_and_only_discover_loads_by_name():
    """importlib.metadata and importlib.resources are other things: they load no code."""
    allowed = ["pretrain.build", "pretrain.config_flag"]
    assert not offenders(["pretrain", "data_pipeline"], ["ml_collections"], but=allowed)
    for name, tree in files("pretrain", "data_pipeline"):
        if name == "data_pipeline.discover":
            continue
        names = under(imported(tree), "importlib")
        files_only = under(names, "importlib.metadata", "importlib.resources")
        called = {ast.unparse(n.func) for n in ast.walk(tree) if isinstance(n, ast.Call)}
        assert set(names) <= {"importlib", *files_only} and bool(names) == bool(files_only), name
        assert not called & {"importlib.import_module", "import_module", "__import__", "exec", "eval"}, name


def test_beam_and_onnx_are_imported_where_they_are_needed():
    heavy = ["apache_beam", "onnx", "onnxruntime"]
    assert not offenders(PACKAGES, heavy, but=["tools.prepare.pipeline"], top_level=True)


def test_torch_is_imported_inside_functions_only():
    assert not offenders(PACKAGES, ["torch"], but=["pretrain.interop.torch_model"], top_level=True)
