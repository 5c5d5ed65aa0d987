"""Detected hardware has the same name and facts as the name alone."""

import pytest

from tests.fake_devices import FakeDevice, gpus, tpus
from trellax.parallel import detect_hardware, hardware_named, peak_flops


def test_virtual_cpu_devices_are_cpu():
    hardware = detect_hardware()
    assert (hardware.name, hardware.platform, hardware.num_devices) == ("cpu", "cpu", 8)
    assert peak_flops(hardware, "float32") is None


@pytest.mark.parametrize(
    ("devices", "name"),
    [
        (tpus((4, 8, 8)), "tpu-v5p-512"),
        (tpus((4, 4, 1), device_kind="TPU v5 lite", num_slices=4), "tpu-v5e-16-4"),
        (tpus((4, 4, 1), device_kind="TPU v6 lite"), "tpu-v6e-16"),
        (tpus((4, 4, 4), device_kind="TPU7x", cores=2), "tpu-7x-128"),
        (gpus(2), "gpu-h100-16"),
        ([FakeDevice(i, i // 64, "neuron", "NC_v3d") for i in range(128)], "trn2-32"),
    ],
)
def test_devices_are_the_hardware_of_that_name(devices, name):
    assert detect_hardware(devices) == hardware_named(name)


def test_unlisted_chips_get_a_name_and_no_facts():
    hardware = detect_hardware(gpus(1, device_kind="NVIDIA GeForce RTX 4090"))
    assert hardware.name == "gpu-geforce-rtx-4090-8"
    assert peak_flops(hardware, "bfloat16") is None and hardware.hbm_bytes_per_device is None


def test_mixed_devices_are_refused():
    mixed = [*gpus(1), FakeDevice(8, 1, "gpu", "NVIDIA B200")]
    with pytest.raises(ValueError, match="devices of one kind, got .*B200.*H100"):
        detect_hardware(mixed)
