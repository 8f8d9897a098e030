"""A forward pass recorded once on a CUDA GPU, and replayed without Python launching its kernels one by one."""

from collections.abc import Callable
from typing import Final

import torch

#: Passes before the recording: libraries choose their algorithms and take their memory in the first.
_WARM_UP: Final = 3


class RecordedPass:
    """A function of batches, recorded for one size of batch; smaller batches are filled up to it.

    Every image goes through the same kernels whatever it comes with, so its answer does not depend on how many others
    are in the batch.  NVIDIA, "CUDA C++ Programming Guide", section CUDA Graphs.

    Parameters
    ----------
    forward
        Takes (N, 1, rows, columns) of `dtype` on `device` and gives tensors with N rows each; does not wait for the
        device.
    images
        Size of the batch; halved while the device has not the memory for it.

    Raises
    ------
    RuntimeError
        If it has not the memory for one image (torch.OutOfMemoryError), or the recording fails.
    """

    def __init__(
        self,
        forward: Callable[[torch.Tensor], tuple[torch.Tensor, ...]],
        *,
        images: int,
        rows: int,
        columns: int,
        device: torch.device,
        dtype: torch.dtype,
    ) -> None:
        while True:
            try:
                self._record(forward, (images, 1, rows, columns), device, dtype)
            except torch.OutOfMemoryError:
                if images == 1:
                    raise
                torch.cuda.empty_cache()
                images //= 2
            else:
                break
        self.images = images

    def _record(
        self,
        forward: Callable[[torch.Tensor], tuple[torch.Tensor, ...]],
        shape: tuple[int, int, int, int],
        device: torch.device,
        dtype: torch.dtype,
    ) -> None:
        self._staged = torch.zeros(shape, dtype=torch.float32, pin_memory=True)
        self._inputs = torch.zeros(shape, dtype=dtype, device=device).contiguous(memory_format=torch.channels_last)
        self._graph = torch.cuda.CUDAGraph()
        aside = torch.cuda.Stream(device)  # type: ignore[no-untyped-call] # torch
        aside.wait_stream(torch.cuda.current_stream(device))
        with torch.inference_mode():
            with torch.cuda.stream(aside):
                for _ in range(_WARM_UP):
                    forward(self._inputs)
            torch.cuda.current_stream(device).wait_stream(aside)
            with torch.cuda.graph(self._graph):
                self._outputs = forward(self._inputs)

    def __call__(self, batch: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Run the recorded pass.

        Parameters
        ----------
        batch
            Float32 (N, 1, rows, columns) on the CPU, N from 1 to `images`.

        Returns
        -------
        tuple of torch.Tensor
            What was recorded, N rows of each, on the device: overwritten by the next call.
        """
        count = len(batch)
        self._staged[:count].copy_(batch)
        self._inputs.copy_(self._staged, non_blocking=True)
        self._graph.replay()
        return tuple(output[:count] for output in self._outputs)
