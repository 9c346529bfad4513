"""The subcommands: the help of each fits on a screen and ends with an example, and bad input gets
one line."""

from __future__ import annotations

import pytest

from vhost9p import cli, commands, errors

SCREEN_LINES, SCREEN_COLUMNS = 24, 80

Output = pytest.CaptureFixture[str]


@pytest.fixture(autouse=True)
def screen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", str(SCREEN_COLUMNS))


def helped(capsys: Output, *words: str) -> str:
    """What is printed, with exit code 0."""
    with pytest.raises(SystemExit) as caught:
        cli.main([*words, "--help"])
    out, err = capsys.readouterr()
    assert (caught.value.code, err) == (0, "")
    return out


def refused(capsys: Output, *words: str) -> str:
    """The one line that says what is wrong."""
    assert cli.main([*words]) == errors.EXIT_USAGE
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    return err


@pytest.mark.parametrize("name", commands.NAMES)
def test_the_help_of_a_command_fits_on_a_screen_and_ends_with_an_example(
    capsys: Output, name: str
) -> None:
    lines = helped(capsys, name).splitlines()
    assert len(lines) < SCREEN_LINES, "the prompt has a line, too"
    assert max(map(len, lines)) <= SCREEN_COLUMNS
    assert lines[0].startswith(f"usage: vhost9p {name}")
    examples = lines[lines.index("example:") + 1 :]
    assert examples
    assert all(line.startswith("  ") for line in examples)
    assert f"vhost9p {name}" in "\n".join(examples)


@pytest.mark.parametrize("name", commands.NAMES)
def test_the_options_of_an_example_exist(name: str) -> None:
    parser = commands.parser(name)
    for line in commands.load(name).EXAMPLE.splitlines():
        for word in line.partition(" -- ")[0].split():  # behind it is another program's
            if word.startswith("--"):
                assert parser.key(word), word


@pytest.mark.parametrize("name", commands.NAMES)
def test_an_option_that_a_command_does_not_have_gets_one_line(capsys: Output, name: str) -> None:
    line = refused(capsys, name, "--no-such-option")
    assert "unknown option --no-such-option" in line
    assert f"(vhost9p {name} --help lists the options)" in line


def test_the_help_lists_the_commands(capsys: Output) -> None:
    text = helped(capsys)
    for name in commands.NAMES:
        summary = commands.load(name).SUMMARY
        assert f"  {name:<10}{summary}\n" in text
        assert len(name) < 10 and len(summary) <= SCREEN_COLUMNS - 12
        assert not summary.endswith(".")


UNKNOWN = [
    ("upgrad", "unknown command 'upgrad'; did you mean 'upgrade'? (vhost9p --help lists the comm"),
    ("/srv/data", "unknown command '/srv/data'; options begin with -- (vhost9p --help lists the"),
    ("", "unknown command ''; options begin with --"),
    ("__init__", "unknown command '__init__'"),
    ("a\nb", "unknown command 'a\\nb'"),
]


@pytest.mark.parametrize("word,said", UNKNOWN)
def test_an_unknown_command_gets_one_line(capsys: Output, word: str, said: str) -> None:
    assert said in refused(capsys, word, "--socket=/tmp/s", "--path=/none")


UPGRADE = [
    (["x"], "argument pid: 'x' is no whole number from 1 to 2147483647 (vhost9p upgrade --help"),
    (["0"], "argument pid: '0' is no whole number from 1"),
    (["--", "-1"], "argument pid: '-1' is no whole number from 1"),
    (["1", "--al"], "unknown option --al"),
]


@pytest.mark.parametrize("words,said", UPGRADE, ids=lambda each: str(each)[:20])
def test_upgrade_refuses_what_is_no_pid(capsys: Output, words: list[str], said: str) -> None:
    assert said in refused(capsys, "upgrade", *words)
