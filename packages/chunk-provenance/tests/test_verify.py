import json

import numpy as np
import pytest

from chunk_provenance import DataOrder, FormatError, batch_digest
from chunk_provenance.verify import Verification, verify_log

ORDER = DataOrder(np.array([0, 2, 4, 6]), np.array([5, 0, 3, 1, 0, 5]), np.array([0]))


def write_log(path, steps, **changed):
    lines = [
        {
            "step": step,
            "batch_digest": changed.get(f"step{step}") or batch_digest(ORDER.batch(step)),
            "loss": 2.0,
        }
        for step in steps
    ]
    text = "".join(json.dumps(line) + "\n" for line in [{"step": 0, "validation/x/ce": 9.0}, *lines])
    path.write_text(text, encoding="utf-8")
    return path


def test_a_run_that_followed_the_order_is_verified(tmp_path):
    assert verify_log(ORDER, write_log(tmp_path / "log", [1, 2, 3])) == Verification(3, 0)


def test_a_run_that_stopped_early_or_repeated_steps_after_a_crash_is_verified(tmp_path):
    assert verify_log(ORDER, write_log(tmp_path / "log", [1, 2, 1, 2])) == Verification(2, 1)


def test_the_first_step_that_differs_is_told(tmp_path):
    log = write_log(tmp_path / "log", [3, 1, 2], step2="x", step3="y")
    assert verify_log(ORDER, log) == Verification(1, 2, 2, "x", batch_digest(ORDER.batch(2)))


def test_a_step_beyond_the_order_differs(tmp_path):
    log = tmp_path / "log"
    log.write_text('{"step": 4, "batch_digest": "x"}\n', encoding="utf-8")
    assert verify_log(ORDER, log) == Verification(0, 3, 4, "x", None)


def test_the_unfinished_last_line_of_a_killed_run_is_not_read(tmp_path):
    log = write_log(tmp_path / "log", [1, 2])
    log.write_text(log.read_text(encoding="utf-8") + '{"step": 3, "batch_d', encoding="utf-8")
    assert verify_log(ORDER, log) == Verification(2, 1)


def test_what_is_no_log_is_refused(tmp_path):
    log = tmp_path / "log"
    with pytest.raises(FileNotFoundError, match="no log at"):
        verify_log(ORDER, log)
    for line in ("{", "[1]", '{"batch_digest": "x"}', '{"step": "1", "batch_digest": "x"}'):
        log.write_text(f"{line}\n", encoding="utf-8")
        with pytest.raises(FormatError, match=r"line 1 of .* is no line of metrics"):
            verify_log(ORDER, log)
    log.write_text('{"step": 1, "loss": 2.0}\n', encoding="utf-8")
    with pytest.raises(FormatError, match="nothing can be verified"):
        verify_log(ORDER, log)
