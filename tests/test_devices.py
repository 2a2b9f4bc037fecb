import subprocess
import sys
from typing import Any

import pytest

from imagen_flow._settings import devices
from imagen_flow._settings.devices import (
    Machine,
    Policy,
    check_torch,
    conditions,
    determinism_class,
    resolve_device,
    resolve_dtype,
    this_machine,
)
from imagen_flow._types.models import Loading


def machine(system="Linux", processor="x86_64", torch_build="cuda", count=0):
    def cuda_devices():
        return count

    return Machine(system, processor, torch_build, cuda_devices)


def refusal(asked, on):
    with pytest.raises(ValueError) as caught:
        resolve_device(asked, on)
    return str(caught.value)


def never():
    raise AssertionError("the driver was woken")


def test_auto_takes_the_first_cuda_device_else_metal_else_the_processor():
    """`auto` is a CUDA device where torch and the driver both have one, Metal on Apple silicon,
    else the processor.
    """
    assert resolve_device("auto", machine(count=2)) == "cuda:0"
    assert resolve_device("auto", machine(count=0)) == "cpu"
    assert resolve_device("auto", machine(torch_build="cpu", count=2)) == "cpu"
    assert resolve_device("auto", machine("Darwin", "arm64", "cpu")) == "mps"
    assert resolve_device("auto", machine("Darwin", "x86_64", "cpu")) == "cpu"
    assert resolve_device("auto", machine("Darwin", "arm64", "none")) == "cpu"


def test_a_device_without_index_is_the_first():
    """`cuda` is spelled out, so that both spellings have one key."""
    assert (
        resolve_device("cuda", machine(count=1))
        == resolve_device("cuda:0", machine(count=1))
        == "cuda:0"
    )
    assert resolve_device("cuda:1", machine(count=2)) == "cuda:1"


def test_the_driver_is_left_asleep_where_it_has_no_say():
    """Asking for the processor, or with a torch built without CUDA, does not initialise the driver."""
    quiet = Machine("Linux", "x86_64", "cpu", never)
    assert resolve_device("auto", quiet) == "cpu"
    assert resolve_device("cpu", Machine("Linux", "x86_64", "cuda", never)) == "cpu"


def test_a_device_that_is_not_there_is_refused_with_the_reason():
    """The message says what was asked and why it is not to be had."""
    assert (
        refusal("cuda", machine(torch_build="cpu", count=1))
        == "there is no device 'cuda' here: the installed torch is built without CUDA"
    )
    assert (
        refusal("cuda", machine(torch_build="none"))
        == "there is no device 'cuda' here: torch is not installed"
    )
    assert (
        refusal("cuda:0", machine(count=0))
        == "there is no device 'cuda:0' here: the NVIDIA driver is missing or reports no device"
    )
    assert (
        refusal("cuda:1", machine(count=1))
        == "there is no device 'cuda:1' here: the driver reports only cuda:0"
    )
    assert (
        refusal("cuda:7", machine(count=4))
        == "there is no device 'cuda:7' here: the driver reports cuda:0 to cuda:3"
    )
    assert (
        refusal("mps", machine())
        == "there is no device 'mps' here: it needs macOS on Apple silicon and torch, and this is Linux on x86_64"
    )
    assert (
        refusal("mps", machine("Darwin", "x86_64", "cpu"))
        == "there is no device 'mps' here: it needs macOS on Apple silicon and torch, and this is Darwin on x86_64"
    )


@pytest.mark.parametrize(
    "asked",
    [
        "gpu0",
        "",
        "cuda:",
        "cuda:-1",
        "cuda:01",
        "cuda:1x",
        "CUDA",
        "cuda:99999999999999999999",
        "x" * 10_000,
    ],
)
def test_a_word_that_is_no_device_is_refused(asked):
    """Anything else gets the list of devices, at a length that fits a screen."""
    said = refusal(asked, machine(count=1))
    assert said.startswith(
        f"'{asked[:40]}' is not a device; the devices are: auto, cpu, cuda, cuda:1, mps"
    )
    assert len(said) < 160


def test_auto_dtype_is_full_precision_except_under_cuda():
    """The dtype follows the device alone, so it is known before planning."""
    assert [resolve_dtype("auto", d) for d in ("cpu", "mps", "cuda:1")] == [
        "float32",
        "float32",
        "float16",
    ]
    assert resolve_dtype("bfloat16", "cpu") == "bfloat16"
    with pytest.raises(ValueError) as caught:
        resolve_dtype("float61", "cpu")
    assert (
        str(caught.value)
        == "'float61' is not a dtype; the dtypes are: auto, float32, float16, bfloat16 (did you mean 'float16'?)"
    )


@pytest.mark.parametrize(
    ("asked", "meant"),
    [
        ("fp16", "float16"),
        ("half", "float16"),
        ("bf16", "bfloat16"),
        ("fp32", "float32"),
        ("torch.float16", "float16"),
        ("torch.bf16", "bfloat16"),
    ],
)
def test_what_a_dtype_is_called_elsewhere_is_understood(asked: str, meant: str) -> None:
    """The short names of dtypes get the name that is meant."""
    with pytest.raises(ValueError) as caught:
        resolve_dtype(asked, "cpu")
    assert str(caught.value).endswith(f"(did you mean '{meant}'?)")


def test_the_determinism_class_is_the_policy_in_one_form():
    """Equal policies are equal data: no card's index, levels sorted."""
    assert determinism_class(
        "cuda:0", "float16", memory_levels=("tile", "half")
    ) == determinism_class("cuda:1", "float16", memory_levels=("half", "evict", "tile", "half"))
    assert determinism_class("cpu", "float32") == {
        "attention": "auto",
        "batch": "exact",
        "compile": False,
        "device": "cpu",
        "dtype": "float32",
        "ladder": [],
        "quantization": "none",
    }


def test_what_changes_no_pixel_is_no_part_of_the_determinism_class():
    """Where models wait, and levels that give the same pixels, leave keys alone; what changes
    numbers does not.
    """
    plain = Policy("cuda:0", "float16").determinism()
    assert Policy("cuda:0", "float16", Loading(offload="layers"), "none").determinism() == plain
    others = [Loading(quantization="int8"), Loading(attention="flash"), Loading(compile=True)]
    assert all(Policy("cuda:0", "float16", settings).determinism() != plain for settings in others)
    assert Policy("cuda:0", "float16", memory="tile").determinism()["ladder"] == ["slice", "tile"]
    assert Policy("cuda:0", "float16", memory="half").memory_levels == (
        "evict",
        "offload",
        "stream",
        "slice",
        "tile",
        "half",
    )


def test_a_run_refuses_to_start_when_torch_disagrees():
    """What was planned for CUDA does not silently run on the processor under the same key."""
    from imagen_flow import ModelError

    check_torch("cpu", "float32")
    with pytest.raises(ModelError) as caught:
        check_torch("mps" if sys.platform != "darwin" else "cuda:0", "float32")
    assert str(caught.value).startswith("the run refuses to start: it was planned for ")


def test_conditions_say_what_torch_ran_on():
    """The record names torch, its threads and its instruction set, as plain data."""
    import torch

    found = conditions()
    assert {"torch": found["torch"], "threads": found["threads"]} == {
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
    }
    assert isinstance(found["cpu"], str)


def test_looking_and_choosing_import_no_torch():
    """Device, dtype and policy are known without torch, and nothing is recorded where nothing ran."""
    code = (
        "import sys\n"
        "from imagen_flow._settings.devices import conditions, determinism_class, this_machine, resolve_device, resolve_dtype\n"
        "device = resolve_device('auto'); determinism_class(device, resolve_dtype('auto', device))\n"
        "assert conditions(device) == {}\n"
        "assert not {'torch', 'numpy', 'diffusers'} & set(sys.modules), sorted(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_this_machine_can_be_looked_at():
    """Probing the real machine gives an answer and does not raise."""
    here = this_machine()
    assert here.torch_build in ("cpu", "cuda", "none")
    assert here.cuda_devices() >= 0


def test_the_driver_says_what_a_gpu_can_do(monkeypatch):
    """By its compute capability, of the device that is meant; of other devices, and where the
    driver is missing or refuses, nothing is known.
    """

    class Driver:
        """A driver of two devices, as far as it is asked."""

        @staticmethod
        def cuInit(flags: int) -> int:
            return 0

        @staticmethod
        def cuDeviceGet(handle: Any, index: int) -> int:
            handle._obj.value = index
            return 0 if index < 2 else 101

        @staticmethod
        def cuDeviceGetAttribute(number: Any, attribute: int, handle: Any) -> int:
            number._obj.value = {75: (8, 9), 76: (6, 0)}[attribute][handle.value]
            return 0

    monkeypatch.setattr(devices, "_cuda_driver", Driver)
    assert [
        devices.compute_capability(device) for device in ("cuda", "cuda:1", "cuda:2", "cpu", "mps")
    ] == [(8, 6), (9, 0), None, None, None]
    monkeypatch.setattr(devices, "_cuda_driver", lambda: None)
    assert devices.compute_capability("cuda:0") is None
