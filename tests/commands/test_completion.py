"""`seekjax --completion`: what the shells are given, and what bash makes of it."""

import shutil
import subprocess

import pytest

from seekjax.commands.cli import COMMANDS, main
from seekjax.commands.completion import SHELLS


@pytest.fixture(scope="module")
def bash(tmp_path_factory):
    """What bash offers for a line: bash("seekjax", "ru") == ["runs"]."""
    if shutil.which("bash") is None or shutil.which("python3") is None:
        pytest.skip("needs bash and python3")
    file = tmp_path_factory.mktemp("completion") / "seekjax.bash"

    def offers(*words: str) -> list[str]:
        line = " ".join(f"'{word}'" for word in words)
        code = (
            f"source {file}; COMP_WORDS=({line}); COMP_CWORD={len(words) - 1}; "
            '_tyro_seekjax; printf "%s\\n" "${COMPREPLY[@]}"'
        )
        run = subprocess.run(["bash", "-c", code], capture_output=True, text=True, check=True)
        return run.stdout.split()

    with pytest.MonkeyPatch.context() as patch, file.open("w") as output:
        patch.setattr("sys.stdout", output)
        with pytest.raises(SystemExit):
            main(["--completion", "bash"])
    return offers


@pytest.mark.slow
def test_bash_completes_commands_options_and_choices(bash):
    assert set(COMMANDS) <= set(bash("seekjax", ""))
    assert bash("seekjax", "ru") == ["runs"]
    assert bash("seekjax", "train", "tiny", "--train.see") == ["--train.seed"]
    assert bash("seekjax", "train", "grpo", "--grpo.kl-f") == ["--grpo.kl-form"]
    assert bash("seekjax", "plan", "v3", "--mfu") == ["--mfu"]
    assert bash("seekjax", "quantize", "runs/tiny", "--to", "") == ["int8", "int4", "fp8"]


def test_another_shell_has_a_script(capsys):
    with pytest.raises(SystemExit) as end:
        main(["--completion", SHELLS[-1]])
    assert not end.value.code
    assert "--train.seed" in capsys.readouterr().out


@pytest.mark.parametrize("words", [[], ["tcsh"], ["bash", "zsh"]])
def test_a_shell_that_is_not_known_is_a_sentence(words, capsys):
    assert main(["--completion", *words]) == 2
    assert "takes one of bash, zsh, fish" in capsys.readouterr().err
