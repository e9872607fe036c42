import pytest

from beam_kmeans.errors import DataError, message_of


def raised_from(cause: Exception) -> Exception:
    try:
        try:
            raise cause
        except Exception as error:
            raise RuntimeError("the job failed") from error
    except RuntimeError as error:
        return error


def raised_during(cause: Exception) -> Exception:
    try:
        try:
            raise cause
        except Exception:
            raise KeyError("something else")  # noqa: B904
    except KeyError as error:
        return error


def test_bad_data_is_a_value_error():
    assert issubclass(DataError, ValueError)


@pytest.mark.parametrize("wrap", [lambda error: error, raised_from, raised_during])
def test_the_message_is_found_behind_other_errors(wrap):
    assert message_of(wrap(DataError("a.csv: row 3 is NaN"))) == "a.csv: row 3 is NaN"


@pytest.mark.parametrize(
    "text",
    [
        "Traceback (most recent call last):\n  ...\nbeam_kmeans.errors.DataError: {}\n",
        "x\nbeam_kmeans.errors.DataError: {} [while running 'Stage/Parse']\n\n\tat org.apache.X",
        "x\nbeam_kmeans.errors.DataError: {}\n\nDuring handling of the above exception, another",
        'RuntimeError("...\\nbeam_kmeans.errors.DataError: {}\\n")',
        "beam_kmeans.errors.DataError: {} [while running 'A']",
    ],
    ids=["traceback", "java", "chained", "repr", "step"],
)
def test_the_message_is_found_in_the_text_of_a_runner(text):
    found = message_of(RuntimeError(text.format("row 3: [1, 2] is bad: 'x'")))
    assert found == "row 3: [1, 2] is bad: 'x'"


def test_a_message_of_several_lines_is_kept_whole():
    text = "beam_kmeans.errors.DataError: first\nsecond [while running 'A']"
    assert message_of(RuntimeError(text)) == "first\nsecond"


def test_the_name_of_the_step_is_left_out():
    assert message_of(DataError("no rows [while running 'Train/Pass']")) == "no rows"


@pytest.mark.parametrize("error", [ValueError("DataError: no"), KeyError("x"), RuntimeError("")])
def test_other_errors_have_no_message_of_ours(error):
    assert message_of(error) is None
