import pytest

from pruning.errors import UserError, check_choice, naming


def test_a_choice_is_returned_or_refused_with_the_likely_typo() -> None:
    assert check_choice("x", "a", {"b": 1, "a": 2}) == "a"
    for value, text in [
        ("beta", "x must be one of alpha, betas, got 'beta'; did you mean betas?"),
        ("zzz", "x must be one of alpha, betas, got 'zzz'"),
        (None, "x must be one of alpha, betas, got None"),
        (7, "x must be one of alpha, betas, got 7"),
    ]:
        with pytest.raises(UserError) as caught:
            check_choice("x", value, ["betas", "alpha"])
        assert (str(caught.value), caught.value.parameter) == (text, "x")


@pytest.mark.parametrize(
    ("prefix", "parameter", "text", "expected"),
    [
        ("train", "lr", "lr must be > 0, got 0", "train.lr must be > 0, got 0"),
        ("prune", "sparsity", "sparsity must be in [0, 1)", "prune.percent must be in [0, 1)"),
        ("", "path", "path=x: no such file", "resume=x: no such file"),
        ("", "lr", "lr must be > 0, got 0", "lr must be > 0, got 0"),
        ("train", None, "cannot write x", "cannot write x"),
    ],
)
def test_an_error_of_the_library_gets_the_name_of_the_command_line(
    prefix: str, parameter: str | None, text: str, expected: str
) -> None:
    with pytest.raises(UserError) as caught, naming(prefix, {"sparsity": "percent", "path": "resume"}):
        raise UserError(text, parameter) from OSError("no disk")
    assert str(caught.value) == expected
    assert (caught.value.parameter is None) == (parameter is None)
    assert isinstance(caught.value.__cause__, OSError)
