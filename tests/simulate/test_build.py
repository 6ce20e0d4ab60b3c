"""The cache of compiled simulators, and what is said where a tool is missing."""

import ctypes
import importlib.util

import pytest

from hyperdrive_hdl import tools
from hyperdrive_hdl.errors import ToolError
from hyperdrive_hdl.simulate import compiled, cxxrtl
from hyperdrive_hdl.simulate.compiled import build_cached
from hyperdrive_hdl.simulate.cxxrtl import CxxrtlBackend
from tests.support.chips import MINI


@pytest.fixture
def cache(tmp_path, monkeypatch):
    place = tmp_path / "cache"
    monkeypatch.setenv("HYPERDRIVE_CACHE", str(place))
    return place


def test_the_same_content_is_built_once(cache):
    calls = []

    def build(work):
        calls.append(work)
        (work / "file").write_text("made")

    first = build_cached(b"key", build, kind="kind")
    second = build_cached(b"key", build, kind="kind")
    assert first == second
    assert (first / "file").read_text() == "made"
    assert len(calls) == 1
    other = build_cached(b"another key", build, kind="kind")
    assert other != first
    assert len(calls) == 2
    assert sorted(cache.iterdir()) == sorted([first, other])


@pytest.mark.parametrize("failure", [ToolError("no"), KeyboardInterrupt(), RuntimeError("bug")], ids=repr)
def test_an_interrupted_build_leaves_nothing(cache, failure):
    def build(work):
        (work / "half").write_text("")
        raise failure

    with pytest.raises(type(failure)):
        build_cached(b"key", build, kind="kind")
    assert list(cache.iterdir()) == []
    place = build_cached(b"key", lambda work: (work / "whole").write_text(""), kind="kind")
    assert [path.name for path in place.iterdir()] == ["whole"]


def test_another_process_may_be_first(cache):
    def build(work):
        (work / "file").write_text("ours")
        if not inner:
            inner.append(build_cached(b"key", lambda w: (w / "file").write_text("theirs"), kind="kind"))

    inner: list = []
    place = build_cached(b"key", build, kind="kind")
    assert place == inner[0]
    assert (place / "file").read_text() == "theirs"
    assert list(cache.iterdir()) == [place]


def test_a_second_build_of_a_chip_is_a_hit(monkeypatch):
    first = CxxrtlBackend.build(MINI)
    assert first.is_file()

    def refuse(*args, **kwargs):
        raise AssertionError("built again")

    monkeypatch.setattr(cxxrtl, "yosys", refuse)
    monkeypatch.setattr(cxxrtl, "run", refuse)
    assert CxxrtlBackend.build(MINI) == first
    with pytest.raises(AssertionError, match="built again"):
        CxxrtlBackend.build(MINI.replace(wbuf_depth=21))


def test_a_failing_compiler_leaves_no_build_and_tells_its_output(cache, monkeypatch, tmp_path):
    script = tmp_path / "compiler"
    script.write_text("#!/bin/sh\necho cannot compile today\nexit 3\n")
    script.chmod(0o755)
    monkeypatch.setenv("CXX", str(script))
    with pytest.raises(
        ToolError, match=r"C\+\+ compiler: compiler failed with status 3:\ncannot compile today"
    ):
        CxxrtlBackend.build(MINI)
    assert list(cache.iterdir()) == []


def test_no_compiler_at_all_names_the_remedy(monkeypatch):
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setenv("PATH", "")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ToolError, match=r"pip install ziglang.*--engine pysim"):
        CxxrtlBackend(MINI)


def test_the_compiler_from_pip_serves_where_the_system_has_none(monkeypatch):
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setenv("PATH", "")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    assert tools.cxx_compiler()[1:4] == ["-m", "ziglang", "c++"]


def test_a_compiler_that_is_not_there(cache, monkeypatch):
    monkeypatch.setenv("CXX", "/nowhere/c++ -O0")
    assert tools.cxx_compiler() == ["/nowhere/c++", "-O0"]
    with pytest.raises(ToolError, match=r"cannot start /nowhere/c\+\+: No such file"):
        CxxrtlBackend.build(MINI)


def test_a_cache_that_cannot_be_made(monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("HYPERDRIVE_CACHE", str(tmp_path / "file" / "cache"))
    with pytest.raises(ToolError, match="set HYPERDRIVE_CACHE"):
        tools.cache_dir()


def test_a_broken_library_is_told(monkeypatch, tmp_path):
    library = tmp_path / "simulator.so"
    library.write_text("no library")
    monkeypatch.setattr(CxxrtlBackend, "build", staticmethod(lambda config, vcd=False: library))
    with pytest.raises(ToolError, match=r"cannot load the compiled simulator .*simulator\.so"):
        CxxrtlBackend(MINI)
    assert ctypes.CDLL is compiled.ctypes.CDLL
