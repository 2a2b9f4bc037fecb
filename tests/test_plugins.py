"""Plugins are found by entry points, imported when one of their names is asked for, and reported
when they are broken.
"""

from __future__ import annotations

import importlib
import json
import os
import re
import shutil
import sys
import textwrap
from collections.abc import Callable, Iterator
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import markupsafe._speedups
import pytest

from imagen_flow import GraphError, node
from imagen_flow._plugins.registry import Plugin, Registry, discover
from imagen_flow._types.digest import tagged

GOOD = """
from imagen_flow import hookimpl, node

@node("{name}.one", version=1)
def one(n: int) -> int:
    return n

@hookimpl
def imagen_flow_nodes():
    return [one]
"""


@pytest.fixture
def installed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[..., Callable[[], list[Any]]]]:
    """Write modules as if they were installed; give what lists their entry points. Modules are
    forgotten afterwards.
    """
    site = tmp_path / "site"
    site.mkdir()
    monkeypatch.syspath_prepend(site)
    before, path = set(sys.modules), list(sys.path)

    def install(**modules: str) -> Callable[[], list[Any]]:
        for name, text in modules.items():
            (site / f"{name}.py").write_text(textwrap.dedent(text))
        return lambda: [entry(name) for name in modules]

    yield install
    sys.path[:] = path
    for name in set(sys.modules) - before:
        del sys.modules[name]


def entry(module: str, *, name: str = "", dist: str = "", version: str = "1") -> Any:
    """An entry point as `importlib.metadata` gives it."""
    return SimpleNamespace(
        name=name or module,
        value=module,
        dist=SimpleNamespace(name=dist or f"{module}-dist", version=version),
    )


def test_installed_plugins_are_found(installed: Any) -> None:
    """They are called by distribution and entry point, and offer what their hook returns."""
    registry = discover(
        entry_points=installed(pa=GOOD.format(name="pa"), pb=GOOD.format(name="pb"))
    )
    assert list(registry.plugins) == ["pa-dist:pa", "pb-dist:pb"]
    assert (registry.names(), registry.faults) == (["pa.one", "pb.one"], [])
    found = registry.find("pa.one")
    assert found is not None
    assert (found.plugin, found.function(3), len(found.source_digest)) == ("pa-dist:pa", 3, 40)
    assert registry.find("pa.two") is None


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        (
            "import gone_for_good",
            "cannot be imported: ModuleNotFoundError: No module named 'gone_for_good' (px.py:1)",
        ),
        ("def f(:", "cannot be imported: SyntaxError: invalid syntax (px.py, line 1)"),
        ("import sys; sys.exit(3)", "cannot be imported: it called exit(3)"),
        (
            "x = 1",
            "implements no hook of imagen_flow; mark the function that returns its nodes with @imagen_flow.hookimpl",
        ),
        (
            "from imagen_flow import hookimpl\n@hookimpl\ndef imagen_flow_nodse(): return []",
            "implements an unknown hook: unknown hook 'imagen_flow_nodse' in plugin <module 'px'",
        ),
        (
            "from imagen_flow import hookimpl\n@hookimpl\ndef imagen_flow_nodes(extra): return []",
            "is not a valid plugin: Plugin 'px-dist:px' for hook 'imagen_flow_nodes'",
        ),
        (
            "from imagen_flow import hookimpl\n@hookimpl\ndef imagen_flow_nodes(): return [len]",
            "its hook imagen_flow_nodes failed: TypeError: <built-in function len> is not decorated with @node",
        ),
        (
            "from imagen_flow import hookimpl\n@hookimpl\ndef imagen_flow_nodes(): raise SystemExit(1)",
            "its hook imagen_flow_nodes failed: SystemExit: 1",
        ),
        (
            "from imagen_flow import hookimpl\n@hookimpl\ndef imagen_flow_nodes(): return None",
            "its hook imagen_flow_nodes failed: TypeError: 'NoneType' object is not iterable",
        ),
    ],
)
def test_a_broken_plugin_is_reported_and_the_rest_still_load(
    installed: Any, text: str, fault: str
) -> None:
    """What is wrong is said by plugin; nothing of it is offered."""
    registry = discover(entry_points=installed(px=text, pgood=GOOD.format(name="pgood")))
    assert registry.plugins["px-dist:px"].fault.startswith(fault)
    assert (registry.names(), len(registry.faults)) == (["pgood.one"], 1)
    assert registry.find("pgood.one") is not None


def test_one_module_named_by_two_entry_points_is_reported(installed: Any) -> None:
    """The second is refused, and the first works."""
    installed(pm=GOOD.format(name="pm"))
    registry = discover(entry_points=lambda: [entry("pm", name="a"), entry("pm", name="b")])
    assert registry.find("pm.one") is not None
    assert (
        registry.plugins["pm-dist:b"].fault == "is the module pm, which is already another plugin"
    )


def test_two_distributions_may_use_one_name_for_their_entry_points(installed: Any) -> None:
    """Neither hides the other."""
    installed(pc=GOOD.format(name="pc"), pd=GOOD.format(name="pd"))
    registry = discover(
        entry_points=lambda: [
            entry("pc", name="same", dist="c"),
            entry("pd", name="same", dist="d"),
        ]
    )
    assert (list(registry.plugins), registry.names()) == (
        ["c:same", "d:same"],
        ["pc.one", "pd.one"],
    )


def test_a_node_type_that_two_plugins_offer_is_an_error_that_names_both(
    installed: Any, tmp_path: Path
) -> None:
    """Neither is used, whichever was imported first, even if both are cached."""
    entries = installed(pe=GOOD.format(name="x"), pf=GOOD.format(name="x"))
    for cache_file in (None, tmp_path / "cache.json", tmp_path / "cache.json"):
        registry = discover(entry_points=entries, cache=cache_file)
        registry.load_all()
        with pytest.raises(GraphError) as refused:
            registry.find("x.one")
        assert (
            str(refused.value)
            == "error[unknown-node-type]: two plugins provide 'x.one': pe-dist:pe and pf-dist:pf\n  = fix: uninstall one of them, or rename its node type"
        )
        assert len(registry.faults) == 1
        assert "provides 'x.one', which p" in registry.faults[0]


TINY = """
@hookimpl
def imagen_flow_tiny(reference, at, folder):
    return folder / "{name}" if "{word}" in reference else None
"""


def test_tiny_models_are_asked_for_in_the_order_of_names(installed: Any, tmp_path: Path) -> None:
    """Of two plugins that know a model by its name the same one answers, whichever was imported
    first.
    """
    entries = installed(
        ph=GOOD.format(name="ph") + TINY.format(name="ph", word="text-image"),
        pi=GOOD.format(name="pi") + TINY.format(name="pi", word="text"),
    )
    for first in ("ph.one", "pi.one"):
        registry = discover(entry_points=entries)
        assert registry.find(first) is not None
        assert registry.tiny("a/text-image", None, tmp_path) == tmp_path / "ph"
        assert registry.tiny("a/text", None, tmp_path) == tmp_path / "pi"
        assert registry.tiny("a/sound", None, tmp_path) is None


def test_what_plugins_offer_is_remembered(installed: Any, tmp_path: Path) -> None:
    """Known plugins are imported only when asked for; one that has changed is looked at anew."""
    cache_file = tmp_path / "cache.json"
    entries = installed(pg=GOOD.format(name="pg"), ph=GOOD.format(name="ph"))
    discover(entry_points=entries, cache=cache_file)
    for name in ("pg", "ph"):
        del sys.modules[name]
    registry = discover(entry_points=entries, cache=cache_file)
    assert registry.names() == ["pg.one", "ph.one"]
    assert {"pg", "ph"}.isdisjoint(sys.modules)
    assert registry.find("ph.one") is not None
    assert ("pg" in sys.modules, "ph" in sys.modules) == (False, True)
    installed(ph=GOOD.format(name="other"))
    del sys.modules["ph"]
    assert discover(entry_points=entries, cache=cache_file).names() == ["other.one", "pg.one"]


def test_a_plugin_that_breaks_still_tells_what_it_offered(installed: Any, tmp_path: Path) -> None:
    """So a graph that uses it can say which plugin to mend."""
    cache_file = tmp_path / "cache.json"
    entries = installed(pi=GOOD.format(name="pi"))
    discover(entry_points=entries, cache=cache_file)
    installed(pi="import gone_for_good")
    del sys.modules["pi"]
    for _ in range(2):
        registry = discover(entry_points=entries, cache=cache_file)
        assert registry.find("pi.one") is None
        offered = registry.offered_by("pi.one")
        assert offered is not None
        assert "gone_for_good" in offered.fault


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{",
        '{"pj-dist:pj": 5}',
        '{"pj-dist:pj": {"stamp": "x"}}',
        '{"pj-dist:pj": {"stamp": 1, "nodes": 2, "models": 3, "codecs": 4}}',
    ],
)
def test_a_damaged_cache_only_costs_time(installed: Any, tmp_path: Path, text: str) -> None:
    """It is written anew."""
    cache_file = tmp_path / "cache.json"
    cache_file.write_text(text)
    assert discover(
        entry_points=installed(pj=GOOD.format(name="pj")), cache=cache_file
    ).names() == ["pj.one"]
    assert json.loads(cache_file.read_text())["pj-dist:pj"]["nodes"] == ["pj.one"]


def test_a_function_can_be_added_directly() -> None:
    """As tests and notebooks do; its source is digested from its text."""

    @node("here.one", version=1)
    def one(n: int) -> int: ...

    registry = Registry({})
    registry.add(one)
    found = registry.find("here.one")
    assert found is not None
    assert (found.plugin, len(found.source_digest), registry.names()) == ("local", 40, ["here.one"])


# -- local files -----------------------------------------------------------------------------------

LOCAL = """
import {helper}
from imagen_flow import node

@node("my.one", version=1)
def one() -> int:
    return {helper}.VALUE
"""


def digest(registry: Registry) -> str:
    found = registry.find("my.one")
    assert (registry.faults, found is None) == ([], False)
    assert found is not None
    return found.source_digest


def value(registry: Registry) -> int:
    found = registry.find("my.one")
    assert found is not None
    return int(found.function())


def test_a_local_file_needs_no_hook(installed: Any, tmp_path: Path) -> None:
    """What is decorated in it is what it offers; looked at again it has the same digest, under
    another path too.
    """
    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / "nodes.py").write_text(LOCAL.format(helper="helper_a"))
    (folder / "helper_a.py").write_text("VALUE = 1")
    first = discover([folder / "nodes.py"], entry_points=list)
    assert (first.names(), value(first)) == (["my.one"], 1)
    assert digest(discover([folder / "nodes.py"], entry_points=list)) == digest(first)
    assert (
        len(
            discover(
                [folder / "nodes.py", folder / ".." / "mine" / "nodes.py"], entry_points=list
            ).plugins
        )
        == 1
    )
    shutil.move(folder, tmp_path / "moved")
    (tmp_path / "moved/nodes.py").rename(tmp_path / "moved/renamed.py")
    assert digest(discover([tmp_path / "moved/renamed.py"], entry_points=list)) == digest(first)


def test_a_helper_module_counts_as_source(installed: Any, tmp_path: Path) -> None:
    """Its edit changes the digest and takes effect, in the same process too; so do those of what it
    imports, and of packages.
    """
    (tmp_path / "nodes.py").write_text(LOCAL.format(helper="helper_b"))
    (tmp_path / "helper_b.py").write_text("from deep_b.inner import VALUE")
    (tmp_path / "deep_b").mkdir()
    (tmp_path / "deep_b/__init__.py").write_text("")
    (tmp_path / "deep_b/inner.py").write_text("VALUE = 1")
    (tmp_path / "beside.py").write_text("VALUE = 9")
    found = [discover([tmp_path / "nodes.py"], entry_points=list)]
    (tmp_path / "deep_b/inner.py").write_text("VALUE = 22")
    found.append(discover([tmp_path / "nodes.py"], entry_points=list))
    (tmp_path / "helper_b.py").write_text("VALUE = 333")
    found.append(discover([tmp_path / "nodes.py"], entry_points=list))
    (tmp_path / "beside.py").write_text("VALUE = 10")
    found.append(discover([tmp_path / "nodes.py"], entry_points=list))
    digests = [digest(r) for r in found]
    assert [value(r) for r in found] == [1, 22, 333, 333]
    assert len(set(digests)) == 3
    assert digests[2] == digests[3]


def test_a_helper_that_is_imported_late_counts_too(installed: Any, tmp_path: Path) -> None:
    """An import inside a function is read off the text; it is not imported before it is needed."""
    (tmp_path / "nodes.py").write_text(
        "from imagen_flow import node\n\n@node('my.one', version=1)\ndef one() -> int:\n    import helper_c\n    return helper_c.VALUE\n"
    )
    (tmp_path / "helper_c.py").write_text("VALUE = 4")
    first = discover([tmp_path / "nodes.py"], entry_points=list)
    assert "helper_c" not in sys.modules
    assert value(first) == 4
    (tmp_path / "helper_c.py").write_text("VALUE = 55")
    second = discover([tmp_path / "nodes.py"], entry_points=list)
    assert value(second) == 55
    assert digest(first) != digest(second)


def test_a_save_within_the_same_second_is_seen(
    installed: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Code of the same size, saved in the second in which the code before was compiled, is what
    runs: in the plugin, its helper, and within a helper that is a package.
    """
    monkeypatch.setattr(sys, "dont_write_bytecode", False)
    path = tmp_path / "nodes.py"
    path.write_text(
        "from imagen_flow import node\nimport lone, pack.deep\n@node('toy.n', version=1)\ndef n() -> list[int]:\n    return [1, lone.N, pack.deep.N]\n"
    )
    (tmp_path / "pack").mkdir()
    files = [path, tmp_path / "lone.py", tmp_path / "pack/__init__.py", tmp_path / "pack/deep.py"]
    for file in files[1:]:
        file.write_text("N = 1\n")

    def given() -> list[int]:
        for file in files:
            os.utime(file, (1_700_000_000, 1_700_000_000))
        found = discover([path], entry_points=installed()).find("toy.n")
        assert found is not None
        return list(found.function())

    assert given() == [1, 1, 1]
    path.write_text(path.read_text().replace("[1,", "[2,"))
    (tmp_path / "lone.py").write_text("N = 3\n")
    (tmp_path / "pack/deep.py").write_text("N = 4\n")
    assert given() == [2, 3, 4]


def test_helpers_of_one_name_do_not_mix(installed: Any, tmp_path: Path) -> None:
    """Each plugin gets its own; together in one registry they are refused, since a process holds
    one module of a name.
    """
    for name, number in (("left", 1), ("right", 2)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "nodes.py").write_text(
            LOCAL.format(helper="helper_d").replace("my.one", "my.one" if number == 1 else "my.two")
        )
        (tmp_path / name / "helper_d.py").write_text(f"VALUE = {number}")
    assert value(discover([tmp_path / "left/nodes.py"], entry_points=list)) == 1
    right = discover([tmp_path / "right/nodes.py"], entry_points=list).find("my.two")
    assert right is not None
    assert right.function() == 2
    both = discover([tmp_path / "left/nodes.py", tmp_path / "right/nodes.py"], entry_points=list)
    assert [f.partition(": ")[2] for f in both.faults] == [
        f"cannot be imported: ImportError: its helper helper_d.py has the same name as one of another plugin ({tmp_path / 'left/nodes.py'}); rename one of them"
    ]


def test_a_file_beside_a_plugin_does_not_hide_a_library(installed: Any, tmp_path: Path) -> None:
    """What is installed wins, and is no part of the plugin's source."""
    (tmp_path / "nodes.py").write_text(
        LOCAL.format(helper="numpy").replace("numpy.VALUE", "len(numpy.__name__)")
    )
    first = discover([tmp_path / "nodes.py"], entry_points=list)
    (tmp_path / "numpy.py").write_text("raise RuntimeError")
    (tmp_path / "imagen_flow").mkdir()
    (tmp_path / "imagen_flow/__init__.py").write_text("raise RuntimeError")
    second = discover([tmp_path / "nodes.py"], entry_points=list)
    assert (digest(second), value(second)) == (digest(first), 5)


TWICE = """
from imagen_flow import node
@node("my.one", version=1)
def first() -> int:
    return 1
alias = first
@node("my.one", version=1)
def second() -> int:
    return 2
"""


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        (None, "cannot be imported: FileNotFoundError: there is no file"),
        ("x = 1", "has no function decorated with @node"),
        ("import sys\nsys.exit()", "cannot be imported: it called exit(None)"),
        ("def f(:", "cannot be imported: SyntaxError"),
        ("\nraise KeyError('x')", "cannot be imported: KeyError: 'x' (nodes.py:2)"),
        (
            GOOD.format(name="pgood"),
            "provides 'pgood.one', which pgood-dist:pgood also provides; rename one of them",
        ),
        (TWICE, "provides 'my.one' twice, by first and second; rename one of them"),
    ],
)
def test_a_local_file_that_cannot_be_used_is_reported(
    installed: Any, tmp_path: Path, text: str | None, fault: str
) -> None:
    """The rest is there."""
    if text is not None:
        (tmp_path / "nodes.py").write_text(text)
    registry = discover(
        [tmp_path / "nodes.py"], entry_points=installed(pgood=GOOD.format(name="pgood"))
    )
    assert registry.plugins[str(tmp_path / "nodes.py")].fault.startswith(fault)
    assert "pgood.one" in registry.names()


# -- what counts as source -------------------------------------------------------------------------

HEAD = "from imagen_flow import node\n"


@pytest.mark.parametrize(
    ("text", "changed", "more"),
    [
        ("from loose import inner\n{one}    return inner.VALUE", "loose/inner.py", ()),
        (
            "import loose.deep.inner\n{one}    return loose.deep.inner.VALUE",
            "loose/deep/inner.py",
            (),
        ),
        (
            "{one}    from loose.deep import inner\n    return inner.VALUE",
            "loose/deep/inner.py",
            (),
        ),
        (
            "from pack.mod import VALUE\n{one}    return VALUE",
            "pack/sub/inner.py",
            (("pack/__init__.py", ""), ("pack/mod.py", "from .sub.inner import VALUE")),
        ),
        ("import importlib\n{one}    return importlib.import_module('late').VALUE", "late.py", ()),
        (
            "import importlib\n{one}    return importlib.import_module('la' + 'te').VALUE",
            "late.py",
            (),
        ),
        ("{one}    return __import__('late').VALUE", "late.py", ()),
        (
            "import sys, os\nsys.path.insert(0, os.path.join(os.path.dirname(__file__), 'lib'))\n{one}    import shelf\n    return shelf.VALUE",
            "lib/shelf.py",
            (),
        ),
        (
            "import os, runpy\n{one}    return runpy.run_path(os.path.join(os.path.dirname(__file__), 'script.py'))['VALUE']",
            "script.py",
            (),
        ),
        (
            "from importlib.resources import files\n{one}    return int(files('table').joinpath('n.txt').read_text()[8:])",
            "table/n.txt",
            (),
        ),
        (
            "from importlib.resources import files\n{one}    return int(files('pack').joinpath('v1.5/n.txt').read_text()[8:])",
            "pack/v1.5/n.txt",
            (("pack/__init__.py", ""),),
        ),
        (
            "import pkgutil\n{one}    return int(pkgutil.get_data(__name__, 'n.txt')[8:])",
            "n.txt",
            (),
        ),
        (
            "from pathlib import Path\n{one}    return int(Path(__file__).with_name('n.txt').read_text()[8:])",
            "n.txt",
            (),
        ),
        (
            "from pathlib import Path\n{one}    return int((Path(__file__).parent / 'rows' / 'n.txt').read_text()[8:])",
            "rows/n.txt",
            (),
        ),
        (
            "from pack.mod import VALUE\n{one}    return VALUE",
            "pack/n.txt",
            (
                ("pack/__init__.py", ""),
                (
                    "pack/mod.py",
                    "import importlib.resources as r\nVALUE = int(r.files(__package__).joinpath('n.txt').read_text()[8:])",
                ),
            ),
        ),
    ],
)
def test_all_that_a_local_plugin_imports_or_reads_from_its_folder_counts(
    installed: Any, tmp_path: Path, text: str, changed: str, more: tuple[tuple[str, str], ...]
) -> None:
    """Modules with and without packages, by whatever way they are imported, and data: a change
    takes effect, and makes another digest; a copy elsewhere has the same.
    """
    names = re.findall(r"loose|pack|late|table|shelf|lib|inner", text + changed)
    unique = tagged("test", text.encode())[:6]  # a process holds one module of a name

    def own(words: str) -> str:
        for name in sorted(set(names)):
            words = re.sub(rf"\b{name}\b(?!\.txt)", f"{name}_{unique}", words)
        return words.replace("importlib_" + unique, "importlib").replace(
            "'la' + 'te'", f"'la' + 'te_{unique}'"
        )

    for folder in ("a", "b"):
        for name, content in (
            ("nodes.py", HEAD + text.format(one='@node("my.one", version=1)\ndef one() -> int:\n')),
            *more,
            (changed, "VALUE = 1"),
        ):
            place = tmp_path / folder / own(name)
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_text(own(content))
    first = discover([tmp_path / "a/nodes.py"], entry_points=list)
    assert value(first) == 1
    (tmp_path / "a" / own(changed)).write_text("VALUE = 22")
    second = discover([tmp_path / "a/nodes.py"], entry_points=list)
    assert value(second) == 22
    assert digest(second) != digest(first)
    (tmp_path / "a/out").mkdir()
    (tmp_path / "a/out/n.png").write_text("a picture")
    assert digest(discover([tmp_path / "a/nodes.py"], entry_points=list)) == digest(second)
    assert digest(discover([tmp_path / "b/nodes.py"], entry_points=list)) == digest(first)


def test_what_a_plugin_imports_from_a_folder_that_it_adds_to_the_path_counts(
    installed: Any, tmp_path: Path
) -> None:
    """Though it lies outside the plugin's own folder; what else lies there does not."""
    head = (
        "import sys, pathlib\nsys.path.insert(0, str(pathlib.Path(__file__).parent.parent / 'shared'))\n"
        + HEAD
    )
    for name, text in (
        ("mine/nodes.py", head + LOCAL.format(helper="outer_one")),
        ("shared/outer_one.py", "from outer_two import VALUE"),
        ("shared/outer_two.py", "VALUE = 1"),
        ("shared/other.py", ""),
    ):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    first = discover([tmp_path / "mine/nodes.py"], entry_points=list)
    assert value(first) == 1
    (tmp_path / "shared/other.py").write_text("changed")
    assert digest(discover([tmp_path / "mine/nodes.py"], entry_points=list)) == digest(first)
    (tmp_path / "shared/outer_two.py").write_text("VALUE = 22")
    second = discover([tmp_path / "mine/nodes.py"], entry_points=list)
    assert value(second) == 22
    assert digest(second) != digest(first)


def test_large_data_of_a_plugin_is_digested_once(installed: Any, tmp_path: Path) -> None:
    """Weights beside a plugin are read when they have changed, and not at every start."""
    (tmp_path / "nodes.py").write_text(
        "import pathlib\nWEIGHTS = pathlib.Path(__file__).with_name('w.bin')\n"
        + HEAD
        + '@node("my.one", version=1)\ndef one() -> int:\n    return 1\n'
    )
    place = tmp_path / "w.bin"
    digests = []
    for byte in (b"1", b"2", b"2"):
        place.write_bytes(byte * 2_000_000)
        os.utime(place, (1_700_000_000, 1_700_000_000))
        digests.append(
            digest(
                discover(
                    [tmp_path / "nodes.py"], entry_points=list, cache=tmp_path / "cache/cache.json"
                )
            )
        )
    assert digests[0] != digests[1] == digests[2]
    assert (tmp_path / "cache/files.sqlite").exists()


def test_a_compiled_helper_counts(installed: Any, tmp_path: Path) -> None:
    """A compiled module goes before source of its name, counts by its bytes, and is loaded as it
    was digested.
    """
    (tmp_path / "nodes.py").write_text(
        HEAD
        + '@node("my.one", version=1)\ndef one() -> int:\n    import _speedups\n    return len(_speedups._escape_inner("<"))\n'
    )
    (tmp_path / "_speedups.py").write_text("raise RuntimeError")
    first = digest(discover([tmp_path / "nodes.py"], entry_points=list))
    place = tmp_path / f"_speedups{EXTENSION_SUFFIXES[0]}"
    shutil.copy(markupsafe._speedups.__file__, place)
    found = discover([tmp_path / "nodes.py"], entry_points=list)
    assert digest(found) != first
    content = place.read_bytes()
    place.write_bytes(content + b"0")
    with pytest.raises(ImportError, match="has changed since"):
        value(found)
    assert digest(discover([tmp_path / "nodes.py"], entry_points=list)) not in (
        first,
        digest(found),
    )
    place.write_bytes(content)
    assert value(discover([tmp_path / "nodes.py"], entry_points=list)) == len("&lt;")


@pytest.mark.parametrize(
    ("target", "changed"),
    [
        ("whole", "whole/helper.py"),
        ("whole", "whole/data/table.json"),
        ("whole", "whole/sub/deep.py"),
        ("whole", "whole/fast.so"),
        ("whole.sub.deep", "whole/helper.py"),
        ("space.nodes", "space/helper.py"),
        ("space.regular.nodes", "space/beside.py"),
        ("space.regular.nodes", "space/regular/table.txt"),
        ("single", "single_helper.py"),
        ("extended", "extension/more.py"),
    ],
)
def test_all_of_an_installed_plugin_counts(
    installed: Any, tmp_path: Path, target: str, changed: str
) -> None:
    """Its package with data and compiled modules, wherever in it the entry point leads; of a
    package without __init__.py what lies beside; what it imports of its distribution; what it adds
    to its path.
    """
    site = tmp_path / "site"
    good = GOOD.format(name="inst")
    files = {
        "whole/__init__.py": good,
        "whole/helper.py": "",
        "whole/data/table.json": "{}",
        "whole/sub/deep.py": good,
        "whole/fast.so": "elf",
        "space/nodes.py": "from . import helper\n" + good,
        "space/helper.py": "",
        "space/regular/__init__.py": "",
        "space/regular/nodes.py": "from space import beside\n" + good,
        "space/beside.py": "",
        "space/regular/table.txt": "",
        "single.py": "import single_helper\n" + good,
        "single_helper.py": "",
        "extended/__init__.py": "import os\n__path__.append(os.path.join(os.path.dirname(__file__), '../extension'))\n"
        + good,
        "extension/more.py": "",
        "unrelated.py": "",
        "whole/__pycache__/x.pyc": "",
        "whole/.hidden": "",
    }
    for name, text in files.items():
        (site / name).parent.mkdir(parents=True, exist_ok=True)
        (site / name).write_text(text)

    def source() -> str:
        for name in [
            n
            for n in sys.modules
            if n.partition(".")[0] in ("whole", "space", "single", "single_helper", "extended")
        ]:
            del sys.modules[name]
        importlib.invalidate_caches()
        registry = discover(entry_points=lambda: [entry(target, name="it", dist="it")])
        found = registry.find("inst.one")
        assert registry.faults == [] and found is not None
        return found.source_digest

    first = source()
    for name in ("unrelated.py", "whole/__pycache__/x.pyc", "whole/.hidden"):
        (site / name).write_text("# another")
    assert source() == first
    (site / changed).write_text("# changed")
    assert source() != first


def test_models_that_come_with_a_plugin_are_no_part_of_its_source(
    installed: Any, tmp_path: Path
) -> None:
    """They have keys of their own."""
    place = tmp_path / "site/brings/weights"
    place.mkdir(parents=True)
    (place / "w.safetensors").write_text("1")
    (place.parent / "__init__.py").write_text(
        GOOD.format(name="brings")
        + "\n@hookimpl\ndef imagen_flow_models():\n    import pathlib\n    return {'brings/it': pathlib.Path(__file__).parent / 'weights'}\n"
    )
    digests = []
    for text in ("1", "2"):
        (place / "w.safetensors").write_text(text)
        sys.modules.pop("brings", None)
        found = discover(entry_points=lambda: [entry("brings")]).find("brings.one")
        assert found is not None
        digests.append(found.source_digest)
    assert digests[0] == digests[1]


def test_what_a_package_without_init_offers_is_looked_at_again(
    installed: Any, tmp_path: Path
) -> None:
    """The cache of what plugins offer notices changes in it."""
    place = tmp_path / "site/roomy/nodes.py"
    place.parent.mkdir(parents=True)
    cache_file = tmp_path / "cache.json"
    for name in ("aa", "bb"):
        place.write_text(GOOD.format(name=name))
        os.utime(place, (len(name) + ord(name[0]), 10**9 + ord(name[0])))
        sys.modules.pop("roomy.nodes", None)
        assert discover(entry_points=lambda: [entry("roomy.nodes")], cache=cache_file).names() == [
            f"{name}.one"
        ]


@pytest.mark.parametrize(
    ("library", "requires", "unknown", "fix"),
    [
        ("numpy", None, False, ""),
        ("PIL", None, True, "'PIL' is a module; its library is 'pillow'"),
        ("numpi", None, True, "did you mean 'numpy'?"),
        ("zzzzqqqq", None, True, "install it, or correct 'uses' of the node"),
        ("some_extra", ["Some-Extra>=1; extra == 'more'"], False, ""),
        ("some_extra", ["other"], True, ""),
    ],
)
def test_a_library_that_no_distribution_is_is_told(
    library: str, requires: list[str] | None, unknown: bool, fix: str
) -> None:
    """A node may use a library that its plugin asks for as an extra; any other that is not
    installed is a mistake, since its version would say nothing in keys.
    """

    @node("here.uses", version=1, uses=(library,))
    def uses(n: int) -> int: ...

    registry = Registry(
        {"p": Plugin("p", "1", "p", distribution=SimpleNamespace(requires=requires))}
    )
    registry.add(uses, plugin="p")
    found = registry.find("here.uses")
    assert found is not None
    assert registry.is_unknown(found, library) == unknown
    if fix:
        assert registry.nearest_library(library) == fix
