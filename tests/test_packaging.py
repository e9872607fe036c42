import os
import pathlib
import subprocess
import sys
import tarfile
import zipfile
from email.parser import Parser

import pytest

import beam_kmeans

ROOT = pathlib.Path(__file__).parents[1]


def run(*command: object, cwd: pathlib.Path | None = None, **named) -> str:
    done = subprocess.run(
        [*map(str, command)], cwd=cwd, capture_output=True, text=True, timeout=100, **named
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_every_public_name_is_there():
    public = [name for name in beam_kmeans.__all__ if name != "__version__"]
    for name in public:
        assert getattr(beam_kmeans, name).__name__ == name


def test_an_unknown_public_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="has no attribute 'KMeanz'"):
        _ = beam_kmeans.KMeanz


def test_dir_lists_the_public_names():
    assert {*beam_kmeans.__all__} <= {*dir(beam_kmeans)}


@pytest.mark.parametrize("command", ["train", "segment", "predict"])
def test_a_pipeline_file_is_its_command(command):
    path = ROOT / "pipelines" / f"{command}.py"
    where = {**os.environ, "PYTHONPATH": str(ROOT)}
    found = run(sys.executable, path, "--help", env=where)
    assert found.startswith(f"usage: beam-kmeans {command} ")


@pytest.fixture(scope="module")
def sources(tmp_path_factory):
    """The sources alone, so that nothing an earlier build left behind is taken in."""
    folder = tmp_path_factory.mktemp("sources")
    tracked = run("git", "ls-files", "-z", cwd=ROOT).split("\0")
    for name in filter(None, tracked):
        if (ROOT / name).is_file():
            target = folder / name
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes((ROOT / name).read_bytes())
    return folder


@pytest.mark.heavy
@pytest.mark.package
def test_the_wheel_works_where_it_is_installed(sources, tmp_path):
    run(sys.executable, "-m", "build", "--no-isolation", "--outdir", tmp_path, cwd=sources)
    (wheel,) = tmp_path.glob("beam_kmeans-*-py3-none-any.whl")
    (sdist,) = tmp_path.glob("beam*kmeans-*.tar.gz")
    check_metadata(wheel)
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert {"setup.py", "pyproject.toml", "README.md", "LICENSE"} <= names

    target = tmp_path / "installed"
    run(sys.executable, "-m", "pip", "install", "--no-deps", "--target", target, wheel)
    where = {"PYTHONPATH": str(target), "PATH": "/usr/bin:/bin"}
    code = "import beam_kmeans; print(beam_kmeans.__file__, beam_kmeans.KMeans.__name__)"
    found = run(sys.executable, "-c", code, cwd=tmp_path, env=where)
    assert found == f"{target}/beam_kmeans/__init__.py KMeans\n"
    assert "train" in run(target / "bin/beam-kmeans", "--help", cwd=tmp_path, env=where)


def check_metadata(wheel: pathlib.Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        (metadata,) = (name for name in names if name.endswith("/METADATA"))
        found = Parser().parsestr(archive.read(metadata).decode())
    roots = {name.partition("/")[0] for name in names}
    assert roots == {"beam_kmeans", metadata.partition("/")[0]}
    assert "beam_kmeans/py.typed" in names
    assert found["Version"] == beam_kmeans.__version__
    assert found["License"] == "Apache-2.0"
    assert {"tf", "tf-cpu", "gcp", "aws"} <= {*found.get_all("Provides-Extra")}


@pytest.mark.heavy
@pytest.mark.package
def test_setup_py_makes_the_archive_that_workers_install(sources, tmp_path):
    run(sys.executable, "setup.py", "-q", "sdist", "--dist-dir", tmp_path, cwd=sources)
    (archive,) = tmp_path.iterdir()
    with tarfile.open(archive) as found:
        names = {name.partition("/")[2] for name in found.getnames()}
    assert "beam_kmeans/cli.py" in names
