import pytest
import torch
from safetensors.torch import save_model
from torch import nn

from calibration.errors import InputError
from pipeline.weights import put_weights, read_weights, write_weights


def net():
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Linear(4, 2))


def test_what_is_written_is_read_and_put_back(tmp_path):
    torch.manual_seed(0)
    one, other = net().to(memory_format=torch.channels_last), net()
    write_weights(one, tmp_path / "w.safetensors")
    put_weights(other, read_weights(tmp_path / "w.safetensors"), "w")
    assert all(torch.equal(a, b) for a, b in zip(one.state_dict().values(), other.state_dict().values(), strict=True))


def test_tied_weights_are_written_under_each_name(tmp_path):
    module = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    module[1].weight = module[0].weight
    write_weights(module, tmp_path / "w.safetensors")
    assert set(read_weights(tmp_path / "w.safetensors")) == set(module.state_dict())


def test_a_tied_weight_may_be_stored_once(tmp_path):
    def tied():
        module = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
        module[1].weight = module[0].weight
        return module

    one, other = tied(), tied()
    save_model(one, str(tmp_path / "w.safetensors"))
    stored = read_weights(tmp_path / "w.safetensors")
    assert len(stored) == 3
    put_weights(other, stored, "w")
    assert all(torch.equal(a, b) for a, b in zip(one.state_dict().values(), other.state_dict().values(), strict=True))
    with pytest.raises(InputError, match=r"1 missing: 1\.weight|1 missing: 0\.weight"):
        put_weights(nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3)), stored, "w")


def test_every_tensor_that_does_not_fit_is_named():
    tensors = dict(net().state_dict())
    tensors["extra"] = tensors.pop("2.bias")
    tensors["0.weight"] = torch.zeros(5, 1, 3, 3)
    with pytest.raises(InputError) as error:
        put_weights(net(), tensors, "w.safetensors")
    assert error.value.message == (
        "w.safetensors does not fit the model: 1 missing: 2.bias; 1 not the model's: extra; "
        "1 of another shape: 0.weight (file [5, 1, 3, 3], model [4, 1, 3, 3])"
    )


def test_of_many_the_first_few_are_named():
    with pytest.raises(InputError, match=r"9 missing: 0\.weight, 0\.bias, 1\.weight, 1\.bias and 5 more"):
        put_weights(net(), {}, "w")


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_tensors_that_are_not_numbers_are_named(tmp_path, value):
    module = net()
    module[1].running_mean[2] = value
    write_weights(module, tmp_path / "w.safetensors")
    with pytest.raises(InputError, match=r"NaN or infinity in 1\.running_mean"):
        read_weights(tmp_path / "w.safetensors")


def test_a_damaged_file_is_refused(tmp_path):
    path = tmp_path / "w.safetensors"
    write_weights(net(), path)
    path.write_bytes(path.read_bytes()[:-7])
    with pytest.raises(InputError, match="not a whole safetensors file"):
        read_weights(path)


class Malice:
    def __reduce__(self):
        return print, ("run",)


@pytest.mark.parametrize("suffix", ["pt", "pth", "bin"])
def test_a_pickle_is_read_where_it_is_allowed_and_never_run(tmp_path, suffix, capsys):
    path = tmp_path / f"w.{suffix}"
    torch.save({"state_dict": net().state_dict(), "epoch": 3}, path)
    with pytest.raises(InputError, match="is a pickle"):
        read_weights(path)
    assert set(read_weights(path, allow_pickle=True)) == set(net().state_dict())
    torch.save({"weight": Malice()}, path)
    with pytest.raises(InputError, match="holds more than tensors"):
        read_weights(path, allow_pickle=True)
    torch.save([1, 2], path)
    with pytest.raises(InputError, match="holds a list"):
        read_weights(path, allow_pickle=True)
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("content", [b"", b"hello world" * 9, b"PK\x03\x04", b"\x80\x02"])
def test_what_is_no_pickle_is_refused(tmp_path, content):
    path = tmp_path / "w.pt"
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"or is damaged: ."):
        read_weights(path, allow_pickle=True)


def test_integers_are_no_weights_and_floats_of_another_width_are():
    tensors = dict(net().state_dict())
    put_weights(net(), tensors | {"2.bias": tensors["2.bias"].half()}, "w")
    with pytest.raises(InputError, match=r"1 of another type: 2\.bias \(file int8, model float32\)"):
        put_weights(net(), tensors | {"2.bias": tensors["2.bias"].to(torch.int8)}, "w")
