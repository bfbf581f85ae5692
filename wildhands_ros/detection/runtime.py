"""A LiteRT network as a function of one picture."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from wildhands_ros.detection.regions import RgbImage
from wildhands_ros.errors import ModelFileError
from wildhands_ros.libraries import how_to_get

FloatTensor = NDArray[np.float32]
Shape = tuple[int, ...]


class LiteModel:
    """Runs one .tflite model on the CPU. Not safe for calls from several threads at once."""

    def __init__(self, name: str, content: bytes, pixels: int, outputs: Sequence[Shape], threads: int) -> None:
        """name: for messages. content: the model file. pixels: edge of its square RGB input. outputs: the shapes
        expected of its outputs, in order. threads: CPU threads that one call may use.

        Raises ModelFileError where the content is no such model, or LiteRT is not installed.
        """
        try:
            from ai_edge_litert.interpreter import Interpreter
        except ImportError as error:
            raise ModelFileError(f"LiteRT is not installed: {how_to_get('ai-edge-litert')}") from error
        try:
            self._interpreter = Interpreter(model_content=content, num_threads=threads)
            self._interpreter.allocate_tensors()
            inputs, details = self._interpreter.get_input_details(), self._interpreter.get_output_details()
        except (ValueError, RuntimeError) as error:
            raise ModelFileError(f"{name} cannot be loaded by LiteRT ({error})") from error
        shapes = [tuple(int(n) for n in detail["shape"]) for detail in (*inputs, *details)]
        if shapes != [(1, pixels, pixels, 3), *outputs]:
            raise ModelFileError(f"{name} is another network: its tensors have the shapes {shapes}")
        self._pixels = pixels
        self._input = inputs[0]["index"]
        self._outputs = [detail["index"] for detail in details]

    def __call__(self, image: RgbImage) -> list[FloatTensor]:
        """image: (pixels, pixels, 3) uint8. The outputs are copies."""
        self._interpreter.set_tensor(self._input, (image * np.float32(1 / 255))[None])
        self._interpreter.invoke()
        return [self._interpreter.get_tensor(index) for index in self._outputs]
