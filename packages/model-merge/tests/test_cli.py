import subprocess
import sys

from typer.testing import CliRunner

from model_merge.cli import app


def test_help_says_what_the_package_is_for():
    result = CliRunner().invoke(app, ["--help"])
    assert result.exit_code == 0
    assert "Merge checkpoints of language models" in result.output


def test_help_does_not_import_torch():
    code = "import sys, model_merge.cli; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
