"""Products by oneDNN are those of torch: values, layouts, gradients, refusals; and only where they gain."""

from __future__ import annotations

import pytest
import torch

from posttrain.runtime import cpu_products

SIZES = [(100, 128, 300), (33, 70, 1000), (1, 2000, 1000), (2000, 1000, 1), (1000, 2, 2000), (0, 5, 5), (3, 0, 4), (5, 6, 7)]


@pytest.fixture
def replaced():
    """The kernels, on any chip whose torch has oneDNN."""
    if not torch.backends.mkldnn.is_available():
        pytest.skip("this torch has no oneDNN")
    library = cpu_products.register()
    yield
    library._destroy()


def _operands(rows: int, inner: int, columns: int, layout: str) -> tuple[torch.Tensor, torch.Tensor]:
    made = torch.Generator().manual_seed(0)

    def numbers(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=made)

    return {
        "plain": lambda: (numbers(rows, inner), numbers(inner, columns)),
        "transposed": lambda: (numbers(inner, rows).t(), numbers(columns, inner).t()),
        "parts": lambda: (numbers(rows, 2 * inner)[:, ::2], numbers(inner, 2 * columns)[:, columns:]),
    }[layout]()


@pytest.mark.parametrize("layout", ["plain", "transposed", "parts"])
@pytest.mark.parametrize("size", SIZES)
def test_products_are_those_of_double_precision(replaced, size, layout):
    left, right = _operands(*size, layout)
    exact = (left.double() @ right.double()).float()
    bias, whole = torch.arange(float(size[2])), torch.full((size[0], size[2]), 0.5)
    near = {"rtol": 1e-5, "atol": 1e-3}
    torch.testing.assert_close(left @ right, exact, **near)
    torch.testing.assert_close(torch.nn.functional.linear(left, right.t(), bias), exact + bias, **near)
    torch.testing.assert_close(torch.addmm(bias[None], left, right), exact + bias, **near)
    torch.testing.assert_close(torch.addmm(whole, left, right, beta=2, alpha=3), 1 + 3 * exact, **near)
    torch.testing.assert_close(whole.clone().addmm_(left, right, alpha=-2), 0.5 - 2 * exact, **near)
    torch.testing.assert_close(whole.clone().addmm_(left, right, beta=0), exact, **near)


def test_the_result_lies_in_memory_as_before_and_gradients_are_right(replaced):
    left, right = _operands(100, 128, 300, "transposed")
    product = left.requires_grad_() @ right.requires_grad_()
    assert product.is_contiguous()
    product.square().sum().backward()
    towards = 2 * left.detach().double() @ right.detach().double()
    torch.testing.assert_close(left.grad.double(), towards @ right.detach().double().t(), rtol=1e-5, atol=1e-2)
    torch.testing.assert_close(right.grad.double(), left.detach().double().t() @ towards, rtol=1e-5, atol=1e-2)


def test_an_accumulator_is_the_same_tensor(replaced):
    """In place means in place: a head adds up its blocks so."""
    total = torch.zeros(200, 300)
    assert total.addmm_(torch.ones(200, 100), torch.ones(100, 300)) is total
    assert torch.equal(total, torch.full((200, 300), 100.0))


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.int64])
def test_other_numbers_are_torch_s_own(replaced, dtype):
    ones = torch.ones(200, 200, dtype=dtype)
    assert (ones @ ones).dtype is dtype
    assert torch.equal(torch.addmm(ones, ones, ones), torch.full((200, 200), 201, dtype=dtype))


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (lambda: torch.ones(300, 200) @ torch.ones(300, 200), "shapes cannot be multiplied"),
        (lambda: torch.mm(torch.ones(200), torch.ones(200, 200)), "must be a matrix"),
        (lambda: torch.mm(torch.ones(200, 300), torch.ones(300, 400).double()), "same dtype"),
        (lambda: torch.ones(2, 2).addmm_(torch.ones(200, 300), torch.ones(300, 200)), "should match"),
        (lambda: torch.ones(1000, 2000).addmm_(torch.ones(1, 600), torch.ones(600, 2000)), "should match"),
        (lambda: torch.nn.functional.linear(torch.ones(200, 300), torch.ones(400, 300), torch.ones(7)), "size|expand"),
    ],
)
def test_what_does_not_fit_is_refused_as_before(replaced, wrong, said):
    with pytest.raises(RuntimeError, match=said):
        wrong()


def test_large_products_of_fp32_alone_go_to_onednn(replaced):
    """What is small would pay for the way; torch has its own way for other types."""

    def called(left: torch.Tensor, right: torch.Tensor) -> bool:
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as seen:
            torch.mm(left, right)
        return any(event.name == "mkldnn::_linear_pointwise" for event in seen.events())

    assert called(torch.ones(128, 128), torch.ones(128, 128))
    assert not called(torch.ones(64, 64), torch.ones(64, 64))
    assert not called(torch.ones(128, 128).double(), torch.ones(128, 128).double())


@pytest.mark.parametrize(
    ("chip", "gains"),
    [
        ({"cpu_name": "AMD EPYC", "avx512_f": True}, True),
        ({"cpu_name": "AMD EPYC 7763", "avx512_f": False}, False),
        ({"cpu_name": "Intel(R) Xeon(R)", "avx512_f": True}, False),
        ({}, False),
    ],
)
def test_only_chips_that_gain_are_changed(monkeypatch, chip, gains):
    registered = []
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: chip)
    monkeypatch.setattr(cpu_products, "register", lambda: registered.append(1))
    cpu_products.fast_cpu_products.__wrapped__()
    assert bool(registered) == (gains and torch.backends.mkldnn.is_available())
