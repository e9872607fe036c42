import os

import pytest

from beam_kmeans.errors import DataError
from beam_kmeans.io.files import (
    check_directory,
    exists,
    join,
    list_files,
    local_path,
    match_files,
    open_read,
    read_bytes,
    remove,
    remove_directory,
    size_of,
    whole_file,
    write_bytes,
)


@pytest.fixture
def folder(tmp_path):
    for name in ("b.csv", "a.csv", "c.parquet"):
        (tmp_path / name).write_bytes(name.encode())
    return tmp_path


def test_matches_are_sorted_and_told_once(folder):
    files = match_files([f"{folder}/*.csv", f"file://{folder}/a.csv", f"{folder}/*"])
    assert [file.path for file in files] == [
        f"{folder}/{name}" for name in ("a.csv", "b.csv", "c.parquet")
    ]
    assert [file.size for file in files] == [5, 5, 9]
    assert files[0].modified == pytest.approx(os.path.getmtime(folder / "a.csv"))


def test_a_file_is_no_directory_nor_holds_one(folder):
    for path in (f"{folder}/a.csv", f"file://{folder}/a.csv/below/it"):
        with pytest.raises(ValueError, match=rf"^work_dir: {folder}/a\.csv is a file"):
            check_directory("work_dir", path)
    for path in (str(folder), f"{folder}/new/below", "new", "gs://bucket/a.csv"):
        check_directory("work_dir", path)


def test_relative_and_absolute_paths_are_one_file(folder, monkeypatch):
    monkeypatch.chdir(folder)
    (file,) = match_files(["a.csv", f"{folder}/a.csv", "./a.csv"])
    assert file.path == f"{folder}/a.csv"


def test_pattern_without_match_is_named(folder):
    with pytest.raises(DataError, match=r"no file matches '.*none\*'"):
        match_files([f"{folder}/*.csv", f"{folder}/none*"])


def test_directory_is_refused_with_advice(folder):
    with pytest.raises(DataError, match=r"is a directory: .*/\*\.parquet"):
        match_files([str(folder)])


def test_unknown_file_system_is_named():
    with pytest.raises(DataError, match="nowhere://bucket"):
        match_files(["nowhere://bucket/*"])


@pytest.mark.parametrize(
    ("path", "local"), [("/a/b", "/a/b"), ("a", "a"), ("file:///a/b", "/a/b"), ("gs://a/b", None)]
)
def test_local_path(path, local):
    assert local_path(path) == local


def test_bytes_come_back_as_they_are_even_gzipped_names(tmp_path):
    path = join(str(tmp_path), "new", "deep", "x.gz")
    assert not exists(path)
    write_bytes(path, b"\x1f\x8b not really")
    assert exists(path)
    assert read_bytes(path) == b"\x1f\x8b not really"
    with open_read(path) as handle:
        handle.seek(2)
        assert handle.read(4) == b" not"


def test_file_appears_only_when_it_is_whole(tmp_path):
    path = str(tmp_path / "x")
    with whole_file(path) as handle:
        handle.write(b"1")
        handle.flush()
        assert not exists(path)
        assert list_files(f"{tmp_path}/*") == []
    assert list_files(f"{tmp_path}/*") == [path]


def test_failed_write_leaves_the_old_file_and_nothing_else(tmp_path):
    path = str(tmp_path / "x")
    write_bytes(path, b"old")

    def fail():
        with whole_file(path) as handle:
            handle.write(b"new")
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert read_bytes(path) == b"old"
    assert os.listdir(tmp_path) == ["x"]


def test_list_files_of_nothing_is_empty(tmp_path):
    assert list_files(f"{tmp_path}/none/*") == []


def test_list_files_stays_in_its_directory_and_names_files_alone(tmp_path):
    for name in ("a", "deeper/b"):
        write_bytes(str(tmp_path / name), b"")
    assert list_files(f"{tmp_path}/*") == [str(tmp_path / "a")]


def test_files_and_directories_are_removed_and_may_be_gone_already(tmp_path):
    kept, path = str(tmp_path / "kept"), str(tmp_path / "d" / "x")
    for name in (kept, path):
        write_bytes(name, b"")
    (tmp_path / "d" / ".y.tmp").touch()
    for _ in range(2):
        remove([path])
        assert not exists(path)
    for _ in range(2):
        remove_directory(str(tmp_path / "d"))
        assert os.listdir(tmp_path) == ["kept"]


def test_a_pattern_needs_no_directory(tmp_path, monkeypatch):
    (tmp_path / "a1.npy").write_bytes(b"x")
    monkeypatch.chdir(tmp_path)
    assert [file.path for file in match_files(["a*.npy"])] == [str(tmp_path / "a1.npy")]


def test_a_name_that_is_there_is_no_pattern(tmp_path):
    (tmp_path / "a[1].npy").write_bytes(b"x")
    (tmp_path / "a1.npy").write_bytes(b"x")
    name = str(tmp_path / "a[1].npy")
    assert [file.path for file in match_files([name])] == [name]


def test_sizes_are_those_of_files_alone(tmp_path):
    (tmp_path / "a[1]").write_bytes(b"xyz")
    assert size_of(str(tmp_path / "a[1]")) == 3
    assert size_of(str(tmp_path / "none")) == -1
    assert size_of(str(tmp_path)) == -1
