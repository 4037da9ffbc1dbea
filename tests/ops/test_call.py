"""What ``call`` makes of the errors of native code on a GPU, without a GPU."""

from types import SimpleNamespace

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

import kpdeform.ops  # noqa: F401  its modules tag the ops
from kpdeform.ops import _call

FAILED = 'torch_call_dispatcher("aten::{}", "", stack.data()) API call failed at ops.h, line 1'
NO_IMAGE = "CUDA error in cudaGetLastError(): no kernel image is available for execution"


def failing_op(message: str):
    def op(*args):
        raise RuntimeError(message)

    op._schema = SimpleNamespace(name="kpdeform::kpconv_backward")
    return op


@pytest.fixture
def on_gpu():
    with FakeTensorMode():
        return torch.empty(5, 1000, device="cuda")


@pytest.mark.parametrize("function", ["new_empty", "new_zeros", "mm", "sum", "reshape"])
def test_a_gpu_without_memory_is_an_error_that_torch_programs_catch(monkeypatch, on_gpu, function):
    monkeypatch.setattr(torch.cuda, "memory_stats", lambda device: {"num_ooms": 1})
    with pytest.raises(torch.cuda.OutOfMemoryError, match=r"kpconv_backward: out of memory: "):
        _call.call(failing_op(FAILED.format(function)), on_gpu)


def test_another_failure_is_not_called_out_of_memory(monkeypatch, on_gpu):
    """An illegal access of an earlier kernel is reported by whatever is called next."""
    monkeypatch.setattr(torch.cuda, "memory_stats", lambda device: {"num_ooms": 0})
    with pytest.raises(RuntimeError, match="API call failed") as caught:
        _call.call(failing_op(FAILED.format("mm")), on_gpu)
    assert caught.type is RuntimeError


def test_the_same_on_the_cpu_is_a_memory_error():
    with pytest.raises(MemoryError, match=r"kpconv_backward: out of memory: "):
        _call.call(failing_op(FAILED.format("new_zeros")), torch.empty(5))


def test_kernels_that_do_not_fit_say_why(monkeypatch, on_gpu):
    monkeypatch.setattr(_call, "cuda_missing", lambda: "compiled for sm_90, the GPU is sm_75")
    with pytest.raises(RuntimeError, match=r"no CUDA kernels here: compiled for sm_90, the GPU"):
        _call.call(failing_op(NO_IMAGE), on_gpu)
    monkeypatch.setattr(_call, "cuda_missing", lambda: None)
    with pytest.raises(RuntimeError, match=r"no kernel image"):
        _call.call(failing_op(NO_IMAGE), on_gpu)


@pytest.mark.parametrize(
    ("name", "unsafe"),
    [("grid_subsample", True), ("deform_roi_pool_backward", True), ("kpconv_backward", False)],
)
def test_ops_that_wait_for_the_device_stay_out_of_cuda_graphs(name, unsafe):
    """This is what torch.compile asks before it puts an op into a graph."""
    from torch._inductor.utils import is_cudagraph_unsafe_fx_node

    op = getattr(torch.ops.kpdeform, name).default
    assert is_cudagraph_unsafe_fx_node(torch.fx.Graph().call_function(op)) == unsafe
