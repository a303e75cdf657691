"""Completion scripts of shells."""

import shutil
import subprocess

import pytest

from keras_arcface.cli.completion import SHELLS
from keras_arcface.cli.main import main


def script(shell, capsys):
    with pytest.raises(SystemExit) as ended:
        main(["--print-completion", shell])
    assert ended.value.code == 0
    return capsys.readouterr().out


@pytest.mark.parametrize("shell", SHELLS)
def test_scripts_contain_commands_and_options(shell, capsys):
    printed = script(shell, capsys)
    assert "train" in printed
    assert "--verify" in printed or "-verify" in printed


@pytest.mark.skipif(shutil.which("bash") is None, reason="bash is not installed")
@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("keras-arcface tr", {"train"}),
        ("keras-arcface train --ver", {"--verify"}),
        ("keras-arcface train --optimizer ", {"SGD", "Adam", "AdamW"}),
        ("keras-arcface train --data ", {"faces_tfrecord"}),
    ],
)
def test_bash_completes(line, expected, capsys, tmp_path):
    (tmp_path / "faces_tfrecord").mkdir()
    words = line.split(" ")
    quoted = " ".join(f"'{word}'" for word in words)
    commands = (
        f"COMP_WORDS=({quoted}); COMP_CWORD={len(words) - 1}; COMP_LINE='{line}'; COMP_POINT={len(line)}\n"
        "$(complete -p keras-arcface | sed 's/.*-F \\([^ ]*\\).*/\\1/') keras-arcface\n"
        'printf "%s\\n" "${COMPREPLY[@]}"\n'
    )
    (tmp_path / "complete.sh").write_text(script("bash", capsys) + "\n" + commands)
    done = subprocess.run(["bash", "complete.sh"], cwd=tmp_path, capture_output=True, text=True, check=False)
    found = {word.strip() for word in done.stdout.split()}
    assert expected <= found, done.stderr
    if expected != {"faces_tfrecord"}:
        assert found == expected
