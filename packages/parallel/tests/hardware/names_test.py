"""Names and hardware are two forms of the same facts."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trellax.parallel import chip_named, hardware_named, known_chips, peak_flops

ACCELERATORS = [chip for chip in known_chips().values() if chip.platform != "cpu"]


@pytest.mark.parametrize(
    ("name", "chips", "devices", "hosts"),
    [
        ("tpu-v4-1024", 512, 512, 128),
        ("tpu-v5e-4", 4, 4, 1),
        ("tpu-v5e-8", 8, 8, 1),
        ("tpu-v5e-256", 256, 256, 64),
        ("tpu-v5e-256-4", 1024, 1024, 256),
        ("tpu-v5p-512", 256, 256, 64),
        ("tpu-v5p-1024", 512, 512, 128),
        ("tpu-v6e-256-2", 512, 512, 128),
        ("tpu-7x-128", 64, 128, 16),
        ("gpu-a100-8", 8, 8, 1),
        ("gpu-h100-4", 4, 4, 1),
        ("gpu-h100-256", 256, 256, 32),
        ("gpu-b200-512", 512, 512, 64),
        ("trn2-64", 64, 256, 4),
        ("cpu", 1, 1, 1),
    ],
)
def test_a_name_tells_chips_devices_and_hosts(name, chips, devices, hosts):
    hardware = hardware_named(name)
    assert (hardware.num_chips, hardware.num_devices, hardware.num_hosts) == (chips, devices, hosts)
    assert hardware.name == name


@given(st.sampled_from(ACCELERATORS), st.integers(1, 9000), st.integers(1, 16))
def test_names_round_trip(chip, num_chips, num_slices):
    name = f"{chip.name}-{num_chips * chip.count_per_chip}"
    if chip.platform == "tpu" and num_slices > 1:
        name += f"-{num_slices}"
    hardware = hardware_named(name)
    assert hardware.name == name
    assert hardware_named(hardware.name) == hardware
    assert hardware.num_devices == hardware.num_chips * chip.devices_per_chip


def test_aliases_become_the_chips_own_name():
    assert hardware_named("tpu-v5litepod-256-4") == hardware_named("tpu-v5e-256-4")


@pytest.mark.parametrize(
    ("name", "canonical"),
    [
        ("gpu-p5.48xlarge-256", "gpu-h100-256"),
        ("gpu-a3-highgpu-8g-64", "gpu-h100-64"),
        ("gpu-a3-megagpu-8g-8", "gpu-h100-8"),
        ("gpu-a3-ultragpu-8g-8", "gpu-h200-8"),
        ("gpu-p5e.48xlarge-16", "gpu-h200-16"),
        ("gpu-p5en.48xlarge-16", "gpu-h200-16"),
        ("gpu-p4de.24xlarge-8", "gpu-a100-8"),
        ("gpu-a4-highgpu-8g-8", "gpu-b200-8"),
        ("gpu-p6-b200.48xlarge-64", "gpu-b200-64"),
        ("trn2.48xlarge-64", "trn2-64"),
        ("neuron-trn2n.48xlarge-64", "trn2-64"),
    ],
)
def test_instance_types_stand_for_their_chips_and_count_chips(name, canonical):
    assert hardware_named(name) == hardware_named(canonical)


def test_no_two_chips_share_a_name():
    names = [name for chip in known_chips().values() for name in (chip.name, *chip.aliases)]
    assert len(set(names)) == len(names)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("gpu-h10-8", "Unknown chip 'gpu-h10'. Did you mean 'gpu-h100'"),
        ("tpu-v5p", "lacks a count; write tpu-v5p-COUNT"),
        ("tpu-v5p-5", "counts 2 for each chip, so 5 is not"),
        ("gpu-h100-8-2", "only TPUs come in slices"),
        ("GPU H100", "is not a hardware name"),
        ("gpu-h100-0", "Unknown chip|is not a hardware name"),
        ("", "Unknown chip ''"),
    ],
)
def test_bad_names_are_errors(name, message):
    with pytest.raises(ValueError, match=message):
        hardware_named(name)


def test_peak_flops_are_of_all_chips_together():
    assert peak_flops(hardware_named("tpu-v5p-512"), "bfloat16") == 256 * 459e12
    assert peak_flops(hardware_named("gpu-h100-8"), "bfloat16") == pytest.approx(8 * 989.4e12)
    assert peak_flops(hardware_named("tpu-7x-8"), "float8_e4m3fn") == 4 * 4614e12


def test_peak_flops_of_what_is_not_published_are_none():
    assert peak_flops(hardware_named("cpu"), "float32") is None
    assert peak_flops(hardware_named("gpu-a100-8"), "float8_e5m2") is None


def test_memory_of_a_device_is_its_part_of_the_chip():
    assert hardware_named("tpu-7x-8").hbm_bytes_per_device == 96 * 2**30
    assert hardware_named("cpu").hbm_bytes_per_device is None


def test_the_compiler_leaves_nearly_all_of_the_memory():
    assert hardware_named("tpu-v5e-8").usable_hbm_bytes_per_device == 15.75 * 2**30
    for chip in ACCELERATORS:
        hardware = hardware_named(f"{chip.name}-{8 * chip.count_per_chip}")
        share = hardware.usable_hbm_bytes_per_device / hardware.hbm_bytes_per_device
        assert 0.95 < share < 1.01  # Of v5p, 95 GiB are published, and 95.73 are there.
    assert hardware_named("gpu-h100-8").usable_hbm_bytes_per_device == 8e10


@pytest.mark.parametrize("chip", ACCELERATORS, ids=lambda chip: chip.name)
def test_every_accelerator_has_all_facts_and_sources(chip):
    assert chip.peak_flops["bfloat16"] > 1e14
    assert chip.hbm_bytes > 1e10
    assert chip.hbm_bytes_per_second > chip.interconnect_bytes_per_second
    assert chip.interconnect_bytes_per_second > chip.network_bytes_per_second > 1e9
    assert chip.sources
    assert chip_named(chip.name) is chip
