"""The command line alone: flags in, calls and exit codes out; the rooms below are stood in for."""

import dataclasses
import json
import logging
import pathlib
import subprocess
import sys
import types

import numpy as np
import pytest
from apache_beam.options.pipeline_options import DirectOptions, StandardOptions

import beam_kmeans
from beam_kmeans import cli, flags
from beam_kmeans.errors import DataError

TRAIN = ["train", "--input=a.csv", "--work_dir=w", "--num_clusters=3", "--initial_clusters=random"]
PREDICT = ["predict", "--model=m", "--input=a.csv", "--output=o"]
STAGE = ["stage", "--input=a.csv", "--output=o"]
COMMANDS = {"train": TRAIN, "segment": ["segment", *TRAIN[1:]], "predict": PREDICT, "stage": STAGE}


@dataclasses.dataclass(frozen=True)
class RunReport:
    finished: bool = True
    initialized: bool = True
    converged: bool = True
    iterations: int = 7
    inertia: float | None = 2.5
    inertia_of_iteration: int | None = 7
    shift: float | None = 0.0
    rows: int = 1000
    num_clusters: int = 3
    num_features: int = 2
    empty_clusters: int = 0
    passes: int = 15
    seeding_passes: int = 7
    seeding_lookups: int = 6
    candidates: int = 31
    rejected: int = 0
    model_dir: str | None = "w/model"
    work_dir: str = "w"
    jobs: int = 2
    seconds: float = 1.5


@dataclasses.dataclass(frozen=True)
class TrainJob:
    parameters: object
    input: tuple[str, ...]
    work_dir: str
    features: tuple[str, ...] | None = None
    features_column: str | None = None
    weight_column: str | None = None
    standardize: bool = False
    on_bad_rows: str = "error"
    block_rows: int | None = None
    iterations_per_job: int | None = None
    model_dir: str | None = None
    initial_features: tuple[str, ...] | None = None
    seeding_state: str = "keep"


@dataclasses.dataclass(frozen=True)
class PredictReport:
    rows: int = 1000
    rejected: int = 2
    files: int = 1
    output: str = "o"
    inertia: float | None = None
    seconds: float = 1.5


class Rooms:
    """Stands in for the rooms below: remembers its calls, answers or raises what it is told."""

    def __init__(self):
        self.calls = []
        self.report = RunReport()
        self.error = None

    def train(self, job, options):
        return self._answer("train", job, options)

    def run_segment(self, job, options):
        return self._answer("segment", job, options)

    def predict(self, *args, **named):
        self._answer("predict", args, named)
        return PredictReport()

    def stage(self, *args, **named):
        self._answer("stage", args, named)
        return types.SimpleNamespace(rows=5, num_features=2, rejected=1, shards=[1])

    def _answer(self, *call):
        self.calls.append(call)
        print("a library's chatter")
        if self.error:
            raise self.error
        return self.report


@pytest.fixture
def rooms(monkeypatch):
    found = Rooms()
    contents = {
        "driver": {"train": found.train, "run_segment": found.run_segment, "TrainJob": TrainJob},
        "predicting": {"predict": found.predict},
        "io.staging": {"stage": found.stage},
    }
    for name, names in contents.items():
        module = types.ModuleType(f"beam_kmeans.{name}")
        vars(module).update(names)
        monkeypatch.setitem(sys.modules, module.__name__, module)
        parent, _, leaf = module.__name__.rpartition(".")
        __import__(parent)
        monkeypatch.setattr(sys.modules[parent], leaf, module, raising=False)
    return found


def fails(capsys, argv, code) -> str:
    """The message of a command that ends with a code and prints no result."""
    assert cli.entry(argv) == code
    out, err = capsys.readouterr()
    assert out == ""
    assert "Traceback" not in err
    return err


# --- what is called


@pytest.mark.parametrize("command", ["train", "segment"])
def test_train_and_segment_call_the_driver_with_their_flags(rooms, command):
    cli.main([*COMMANDS[command], "--tolerance=0", "--features=a,b", "--block_rows", "10"])
    ((called, job, options),) = rooms.calls
    assert called == command
    assert (job.input, job.work_dir, job.features) == (("a.csv",), "w", ("a", "b"))
    assert (job.block_rows, job.iterations_per_job, job.standardize) == (10, None, False)
    assert (job.parameters.num_clusters, job.parameters.tolerance) == (3, 0.0)
    assert options.view_as(StandardOptions).runner == "FnApiRunner"


# A value other than the default for every flag of train, and where it must arrive.
EFFECTS = [
    ("--input=b,c", lambda job: job.input[-2:], ("b", "c")),
    ("--work_dir=v", lambda job: job.work_dir, "v"),
    ("--num_clusters=4", lambda job: job.parameters.num_clusters, 4),
    ("--random_seed=5", lambda job: job.parameters.random_seed, 5),
    ("--max_iterations=6", lambda job: job.parameters.max_iterations, 6),
    ("--tolerance=0.5", lambda job: job.parameters.tolerance, 0.5),
    ("--empty_clusters=keep", lambda job: job.parameters.empty_clusters, "keep"),
    ("--distance_metric=cosine", lambda job: job.parameters.distance_metric, "cosine"),
    (
        "--kmeans_plus_plus_num_retries=-1",
        lambda job: job.parameters.kmeans_plus_plus_num_retries,
        -1,
    ),
    ("--seeding_oversampling=0.5", lambda job: job.parameters.seeding_oversampling, 0.5),
    ("--seeding_rounds=3", lambda job: job.parameters.seeding_rounds, 3),
    ("--seeding_state=none", lambda job: job.seeding_state, "none"),
    ("--kmc2_chain_length=9", lambda job: job.parameters.kmc2_chain_length, 9),
    ("--kmc2_groups=2", lambda job: job.parameters.kmc2_groups, 2),
    ("--use_mini_batch", lambda job: job.parameters.use_mini_batch, True),
    ("--batch_size=10", lambda job: job.parameters.batch_size, 10),
    (
        "--mini_batch_steps_per_iteration=4",
        lambda job: job.parameters.mini_batch_steps_per_iteration,
        4,
    ),
    ("--max_no_improvement=none", lambda job: job.parameters.max_no_improvement, None),
    ("--features=a,b", lambda job: job.features, ("a", "b")),
    ("--features_column=f", lambda job: job.features_column, "f"),
    ("--on_bad_rows=drop", lambda job: job.on_bad_rows, "drop"),
    ("--weight_column=w", lambda job: job.weight_column, "w"),
    ("--standardize", lambda job: job.standardize, True),
    ("--block_rows=7", lambda job: job.block_rows, 7),
    ("--iterations_per_job=8", lambda job: job.iterations_per_job, 8),
    ("--model_dir=d", lambda job: job.model_dir, "d"),
]


@pytest.mark.parametrize(("flag", "find", "value"), EFFECTS, ids=[e[0] for e in EFFECTS])
def test_every_flag_of_train_arrives(rooms, flag, find, value):
    cli.main([*TRAIN, flag])
    ((_, job, _),) = rooms.calls
    assert find(job) == value


def test_every_flag_of_train_is_in_the_list_above():
    parser = flags.command_parsers(flags.build_parser())["train"]
    elsewhere = {"-h", "--help", "--initial_clusters", "--json", "--verbose", "--runner_option"}
    tested = {flag.partition("=")[0] for flag, _, _ in EFFECTS}
    assert tested == {*flags.flag_names(parser)} - elsewhere


def test_predict_is_called_with_its_flags(rooms):
    more = ["--id_columns=x,y", "--all_scores", "--output_format=csv", "--on_bad_rows=drop"]
    cli.main([*PREDICT, *more, "--features_column=f"])
    ((_, args, named),) = rooms.calls
    assert args == ("m", ["a.csv"], "o")
    assert named.pop("options").view_as(StandardOptions).runner == "FnApiRunner"
    assert named == {
        "features": None,
        "features_column": "f",
        "on_bad_rows": "drop",
        "id_columns": ("x", "y"),
        "all_scores": True,
        "output_format": "csv",
    }


def test_stage_is_called_with_its_flags(rooms):
    more = ["--standardize=true", "--weight_column=w", "--features=a", "--block_rows=9"]
    cli.main([*STAGE, *more, "--input=b.csv,c.csv", "--on_bad_rows=drop"])
    ((_, args, named),) = rooms.calls
    assert args == (["a.csv", "b.csv", "c.csv"], "o")
    del named["options"]
    assert named == {
        "features": ["a"],
        "features_column": None,
        "weight_column": "w",
        "standardize": True,
        "on_bad_rows": "drop",
        "block_rows": 9,
    }


@pytest.mark.parametrize(
    ("text", "value"),
    [("--standardize", True), ("--standardize=True", True), ("--standardize=false", False)],
)
def test_a_boolean_is_a_bare_flag_or_true_or_false(rooms, text, value):
    cli.main([*TRAIN, text])
    assert rooms.calls[0][1].standardize is value


def test_beams_options_reach_the_pipeline(rooms):
    cli.main([*TRAIN, "--runner", "DirectRunner", "--direct_num_workers", "2"])
    options = rooms.calls[0][2]
    assert options.view_as(StandardOptions).runner == "DirectRunner"
    assert options.view_as(DirectOptions).direct_num_workers == 2


def test_runner_options_reach_the_runner(rooms):
    cli.main([*TRAIN, "--runner_option", "object_reuse=true", "--runner_option=faster_copy=false"])
    found = rooms.calls[0][2].get_all_options(retain_unknown_options=True)
    assert (found["object_reuse"], found["faster_copy"]) == ("true", "false")


# --- initial centers


def test_initial_centers_come_from_a_npy_file(rooms, tmp_path):
    np.save(tmp_path / "c.npy", np.arange(6.0).reshape(3, 2))
    cli.main([*TRAIN, f"--initial_clusters={tmp_path}/c.npy"])
    centers = rooms.calls[0][1].parameters.initial_clusters
    np.testing.assert_array_equal(centers, [[0, 1], [2, 3], [4, 5]])


@pytest.mark.usefixtures("rooms")
@pytest.mark.parametrize("name", ["Random", "no/such/model"])
def test_an_unknown_initialiser_is_refused_with_what_is_allowed(capsys, name):
    err = fails(capsys, [*TRAIN, f"--initial_clusters={name}"], 2)
    allowed = "random, kmeans_plus_plus, kmc2, afkmc2, FILE.npy, a model"
    assert f"--initial_clusters: '{name}' is none of: {allowed}" in err


def test_initial_centers_are_found_by_kmeans_plus_plus_if_nothing_is_said(rooms):
    for flags_of_seeding in ([], ["--initial_clusters=afkmc2"]):
        cli.main([*TRAIN[:4], *flags_of_seeding])
    found = [job.parameters.initial_clusters for _, job, _ in rooms.calls]
    assert found == ["kmeans_plus_plus", "afkmc2"]


@pytest.mark.usefixtures("rooms")
def test_as_many_initial_centers_as_clusters_are_needed(capsys, tmp_path):
    np.save(tmp_path / "c.npy", np.zeros((2, 2)))
    err = fails(capsys, [*TRAIN, f"--initial_clusters={tmp_path}/c.npy"], 2)
    assert "--initial_clusters: 2 centers were given, num_clusters is 3" in err


@pytest.mark.usefixtures("rooms")
@pytest.mark.parametrize("content", [b"", b"no array", b"\x80\x04]\x94."])
def test_a_npy_file_that_is_none_is_bad_data(capsys, tmp_path, content):
    (tmp_path / "c.npy").write_bytes(content)
    err = fails(capsys, [*TRAIN, f"--initial_clusters={tmp_path}/c.npy"], 1)
    assert f"{tmp_path}/c.npy holds no centers" in err


# --- usage errors: code 2


@pytest.mark.usefixtures("rooms")
@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ([], "arguments are required: COMMAND"),
        (["frobnicate"], "invalid choice: 'frobnicate'"),
        (["evaluate"], "invalid choice: 'evaluate'"),
        (TRAIN[:3], "arguments are required: --num_clusters"),
        ([*TRAIN, "--num_cluster=3"], "unknown flag --num_cluster; did you mean --num_clusters?"),
        ([*TRAIN, "--runer=x"], "unknown flag --runer; did you mean --runner?"),
        ([*TRAIN, "--distance_metric=l1"], "invalid choice: 'l1'"),
        ([*TRAIN, "--seeding_state=lose"], "invalid choice: 'lose'"),
        ([*TRAIN, "--seeding_rounds=0"], "--seeding_rounds: 0 is not allowed"),
        ([*TRAIN, "--kmc2_groups=0"], "--kmc2_groups: 0 is not allowed"),
        ([*TRAIN, "--max_no_improvement=x"], "--max_no_improvement: invalid"),
        ([*TRAIN, "--use_mini_batch=yes"], "'yes' is neither true nor false"),
        ([*TRAIN, "--all_scores"], "unknown flag --all_scores"),
        ([*TRAIN, "-k", "3"], "unknown flag -k"),
        ([*TRAIN, "stray"], "'stray' belongs to no flag"),
        ([*TRAIN, "--standardize=maybe"], "'maybe' is neither true nor false"),
        ([*TRAIN, "--direct_num_workers=x"], "--direct_num_workers: invalid int value: 'x'"),
        ([*TRAIN, "--num_clusters=0"], "--num_clusters: 0 is not allowed"),
        ([*TRAIN, "--num_clusters=3,4"], "invalid int value: '3,4'"),
        ([*TRAIN, "--random_seed=-1"], "--random_seed: -1 is not allowed"),
        ([*TRAIN, "--tolerance=-1"], "--tolerance: -1.0 is not allowed"),
        ([*TRAIN, "--max_iterations", "-1"], "--max_iterations: -1 is not allowed"),
        ([*TRAIN, "--empty_clusters=drop"], "invalid choice: 'drop'"),
        ([*TRAIN, "--block_rows=0"], "--block_rows: '0' is no integer of at least 1"),
        ([*TRAIN, "--iterations_per_job=2.5"], "'2.5' is no integer of at least 1"),
        ([*TRAIN, "--features=a,,b"], "an empty name in the list 'a,,b'"),
        ([*TRAIN, "--features=a", "--features_column=b"], "not allowed with argument --features"),
        ([*TRAIN, "--runner_option=x"], "--runner_option: 'x' is not of the form name=value"),
        ([*PREDICT, "--output_format=xml"], "invalid choice: 'xml'"),
        ([*PREDICT, "--on_bad_rows=keep"], "invalid choice: 'keep'"),
    ],
)
def test_a_usage_error_says_what_is_wrong(capsys, argv, message):
    assert message in fails(capsys, argv, 2)


@pytest.mark.usefixtures("rooms")
def test_main_leaves_a_usage_error_to_its_caller():
    with pytest.raises(SystemExit, match="2"):
        cli.main([*TRAIN, "--frobnicate"])


# --- failures: code 1


def test_bad_data_is_one_message(rooms, capsys):
    rooms.error = DataError("a.csv: row 3: column 'x' is NaN")
    err = fails(capsys, TRAIN, 1)
    assert err.splitlines()[-1] == "beam-kmeans: a.csv: row 3: column 'x' is NaN"


def test_bad_data_is_found_in_what_a_runner_raises(rooms, capsys):
    rooms.error = RuntimeError(
        "Traceback (most recent call last):\n  File ...\n"
        "beam_kmeans.errors.DataError: a.csv is empty [while running 'Stage/Read']\n\nmore"
    )
    assert cli.entry(TRAIN) == 1
    assert capsys.readouterr().err.splitlines()[-1] == "beam-kmeans: a.csv is empty"


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (RuntimeError("first\nthe job failed"), "RuntimeError: the job failed"),
        (KeyError("zap [while running 'Map']"), "KeyError: zap"),
        (ValueError("3 rows for 4 clusters"), "3 rows for 4 clusters"),
        (ImportError("TensorFlow is needed"), "TensorFlow is needed"),
        (RuntimeError(), "RuntimeError"),
    ],
)
def test_any_other_failure_is_its_last_line_and_a_way_to_see_more(rooms, capsys, error, message):
    rooms.error = error
    err = fails(capsys, TRAIN, 1)
    assert err.splitlines()[-1] == f"beam-kmeans: {message} (--verbose shows all of it)"


def test_verbose_shows_the_traceback(rooms, capsys):
    rooms.error = RuntimeError("the job failed")
    assert cli.entry([*TRAIN, "--verbose"]) == 1
    err = capsys.readouterr().err
    assert "Traceback (most recent call last)" in err
    assert err.splitlines()[-1] == "beam-kmeans: RuntimeError: the job failed"


def test_an_interrupted_run_says_how_it_goes_on(rooms, capsys):
    rooms.error = KeyboardInterrupt()
    assert "the same command resumes" in fails(capsys, TRAIN, 130)


# --- what is printed


def test_the_summary_is_the_last_line_and_alone_on_standard_output(rooms, capsys):
    assert cli.entry(TRAIN) == 0
    out, err = capsys.readouterr()
    assert out == (
        "Converged after 7 iterations: 1,000 rows of 2 features in 3 clusters, inertia 2.5; "
        "15 passes over the rows, 2 Beam jobs, 1.5 s. Model: w/model\n"
    )
    assert "a library's chatter" in err


def test_the_summary_counts_dropped_rows_and_empty_clusters(rooms, capsys):
    rooms.report = RunReport(converged=False, iterations=1, rejected=1, empty_clusters=2)
    cli.main(TRAIN)
    out = capsys.readouterr().out
    assert out.startswith("Stopped after 1 iteration: ")
    assert "3 clusters (2 empty), inertia 2.5, 1 bad row dropped" in out


@pytest.mark.usefixtures("rooms")
def test_the_summary_of_a_stage_counts_what_it_wrote(capsys):
    cli.main(STAGE)
    out = capsys.readouterr().out
    assert out.startswith("Staged 5 rows of 2 features in 1 shard at o, 1 bad row dropped in ")


def test_an_unfinished_segment_says_so(rooms, capsys):
    rooms.report = RunReport(finished=False, converged=False, inertia=None, model_dir=None)
    cli.main(COMMANDS["segment"])
    out = capsys.readouterr().out
    assert out == (
        "7 iterations done of 1,000 rows of 2 features in 3 clusters, not finished: "
        "the same command goes on.\n"
    )


@pytest.mark.usefixtures("rooms")
@pytest.mark.parametrize("command", COMMANDS)
def test_json_is_one_object_alone_on_standard_output(capsys, command):
    assert cli.entry([*COMMANDS[command], "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["rows"] in (5, 1000)
    assert {"seconds"} <= {*found}


@pytest.mark.usefixtures("rooms")
def test_main_returns_the_report():
    assert cli.main(TRAIN) == RunReport()
    assert cli.main(PREDICT) == PredictReport()
    assert cli.main(STAGE).shards == 1


@pytest.mark.usefixtures("rooms")
@pytest.mark.parametrize(
    ("more", "said"),
    [([], "runner FnApiRunner (the default"), (["--runner=DirectRunner"], "runner DirectRunner\n")],
)
def test_the_first_line_of_the_log_names_the_runner(capsys, more, said):
    cli.entry([*TRAIN, *more])
    first = capsys.readouterr().err.splitlines(keepends=True)[0]
    assert said in first
    assert f"beam-kmeans {beam_kmeans.__version__} on Apache Beam" in first


@pytest.mark.usefixtures("rooms")
def test_logging_is_left_as_it_was_found():
    logger = logging.getLogger("beam_kmeans")
    before = (logger.level, logger.propagate, [*logger.handlers], [*logging.getLogger().handlers])
    cli.entry(TRAIN)
    after = (logger.level, logger.propagate, [*logger.handlers], [*logging.getLogger().handlers])
    assert after == before


# --- in a process of its own


def python(*args: str) -> subprocess.CompletedProcess:
    root = pathlib.Path(__file__).parents[1]
    command = [sys.executable, *args]
    return subprocess.run(command, cwd=root, capture_output=True, text=True, timeout=60)


@pytest.mark.parametrize("argv", [["--help"], *([c, "--help"] for c in COMMANDS)])
def test_help_loads_nothing_heavy(argv):
    code = (
        "import sys, beam_kmeans.cli as cli\n"
        "code = cli.entry(sys.argv[1:])\n"
        "heavy = {'apache_beam', 'tensorflow', 'pyarrow'} & {*sys.modules}\n"
        "sys.exit(f'loaded {heavy}' if heavy else code)"
    )
    found = python("-c", code, *argv)
    assert found.returncode == 0, found.stderr
    assert found.stdout.startswith("usage: beam-kmeans")


def test_importing_the_package_loads_neither_beam_nor_tensorflow():
    code = (
        "import sys, beam_kmeans\n"
        "print(sorted({'apache_beam', 'tensorflow', 'pyarrow', 'numpy'} & {*sys.modules}))"
    )
    assert python("-c", code).stdout == "[]\n"


def test_loading_beam_leaves_no_noise():
    argv = ["train", "--input=a", "--work_dir=w", "--num_clusters=1", "--no_such_flag"]
    found = python("-m", "beam_kmeans", *argv)
    assert found.returncode == 2
    assert found.stderr.startswith("usage: beam-kmeans train")
    assert "unknown flag --no_such_flag" in found.stderr


def test_the_stand_ins_have_the_fields_of_what_they_stand_for():
    from beam_kmeans import job, predicting

    for ours, real in [
        (RunReport, job.RunReport),
        (TrainJob, job.TrainJob),
        (PredictReport, predicting.PredictReport),
    ]:
        assert {f.name for f in dataclasses.fields(ours)} == {
            f.name for f in dataclasses.fields(real)
        }
