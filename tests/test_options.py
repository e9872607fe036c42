import pytest
from apache_beam.io.filesystems import FileSystems
from apache_beam.options.pipeline_options import (
    DirectOptions,
    GoogleCloudOptions,
    PipelineOptions,
    StandardOptions,
)

from beam_kmeans import flags, options


def runner_of(found: PipelineOptions) -> str:
    return found.view_as(StandardOptions).runner


@pytest.mark.parametrize("given", [None, [], ["--direct_num_workers=2"], PipelineOptions([])])
def test_the_default_runner_is_fn_api_runner(given):
    assert runner_of(options.pipeline_options(given)) == "FnApiRunner"


@pytest.mark.parametrize("given", [["--runner=FlinkRunner"], PipelineOptions(["--runner=Flink"])])
def test_a_named_runner_stays(given):
    assert runner_of(options.pipeline_options(given)).startswith("Flink")


def test_a_runner_that_is_none_is_refused():
    with pytest.raises(ValueError, match=r"runner: 'NoSuch' is not allowed: .*FnApiRunner"):
        options.pipeline_options(["--runner=NoSuch"])


def test_a_list_becomes_options():
    found = options.pipeline_options(["--direct_num_workers", "3"])
    assert found.view_as(DirectOptions).direct_num_workers == 3


def test_an_options_object_is_left_as_it_was():
    given = PipelineOptions(["--impersonate_service_account=who", "--direct_num_workers=3"])
    found = options.pipeline_options(given)
    assert runner_of(given) is None
    assert found.view_as(DirectOptions).direct_num_workers == 3
    assert found.view_as(GoogleCloudOptions).impersonate_service_account == "who"


def test_file_systems_learn_of_the_options(monkeypatch):
    told = []
    monkeypatch.setattr(FileSystems, "set_options", told.append)
    found = options.pipeline_options(["--s3_region_name=x"])
    assert told == [found]


def test_a_list_with_an_unknown_option_is_refused_with_the_nearest_name():
    with pytest.raises(ValueError, match=r"unknown flag --direct_num_worker; .*num_workers\?"):
        options.pipeline_options(["--direct_num_worker=3"])


def test_one_text_is_refused():
    with pytest.raises(ValueError, match="a list of options is needed"):
        options.pipeline_options("--runner=FnApiRunner")


def test_the_flags_of_all_runners_are_known():
    known = options.beam_flags()
    wanted = "runner project flink_master job_endpoint s3_endpoint_url setup_file dry_run"
    assert {f"--{name}" for name in wanted.split()} <= {*known}


def test_no_flag_of_ours_shadows_one_of_beams():
    help_flags = {"-h", "--help"}
    of_beam = {*options.beam_flags()} - help_flags
    for command, parser in flags.command_parsers(flags.build_parser()).items():
        ours = {*flags.flag_names(parser)} - help_flags
        assert not ours & of_beam, command


def test_our_flags_are_snake_case():
    for parser in flags.command_parsers(flags.build_parser()).values():
        for name in flags.flag_names(parser):
            assert name == "-h" or name[2:].replace("_", "").isalnum()
            assert name.islower()


def test_runner_options_keep_their_order_and_their_equals_signs():
    found = options.runner_arguments(["b=1=2", "--a=x"])
    assert found == ["--b=1=2", "--a=x"]


@pytest.mark.parametrize("pair", ["object_reuse", "=true", "--"])
def test_a_runner_option_needs_a_name_and_a_value(pair):
    with pytest.raises(ValueError, match="not of the form name=value"):
        options.runner_arguments([pair])


def test_negative_numbers_are_no_flags():
    options.refuse_unknown(["--tolerance", "-1e-3", "-.5"], ["--tolerance"])


def test_a_single_dash_is_an_unknown_flag():
    with pytest.raises(ValueError, match="unknown flag -x"):
        options.refuse_unknown(["-x"])
