"""A checkpoint is what was written, or it is not there."""

import torch

from pipeline.checkpoint import NAME, read_checkpoint, write_checkpoint

STATE = {"module": {"w": torch.arange(6.0)}, "epoch": 3, "log": [{"loss": 0.5}]}


def test_what_is_written_is_read(tmp_path):
    assert read_checkpoint(tmp_path) is None
    write_checkpoint(tmp_path, STATE)
    found = read_checkpoint(tmp_path)
    assert found is not None
    assert torch.equal(found["module"]["w"], STATE["module"]["w"])
    assert (found["epoch"], found["log"]) == (3, [{"loss": 0.5}])


def test_any_damage_starts_the_training_over(tmp_path):
    write_checkpoint(tmp_path, STATE)
    content = (tmp_path / NAME).read_bytes()
    for position in range(0, len(content), 97):
        damaged = bytearray(content)
        damaged[position] ^= 1
        (tmp_path / NAME).write_bytes(damaged)
        assert read_checkpoint(tmp_path) is None
    for length in (0, 1, 31, 32, len(content) - 1):
        (tmp_path / NAME).write_bytes(content[:length])
        assert read_checkpoint(tmp_path) is None
