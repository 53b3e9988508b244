"""What people do today: graft.v1.GenerationService on diffusers and PEFT.

  python_server.py --model MODEL --adapter_dir FOLDER [--resident]

One worker and a bounded queue in front of one StableDiffusionPipeline; an
adapter NAME is NAME.safetensors of the folder. For each request the worker
loads the adapters, fuses them, draws, unfuses and unloads; with --resident they
stay loaded, those that --preload names from the start, and it only fuses and
unfuses.

Prints "listening on HOST:PORT" when it serves, as graftd does. Only
GenerateImage is there, without progress events; seeds, noise, sampler, steps
and number format are graftd's, so that both draw the same picture.
"""

import argparse
import dataclasses
import io
import os
import pathlib
import queue
import sys
import tempfile
import threading
import time
from concurrent import futures

# Before torch: graftd does the same for itself.
os.environ["OMP_WAIT_POLICY"] = "PASSIVE"
os.environ["HF_HUB_OFFLINE"] = "1"

import grpc  # noqa: E402
import grpc_tools.protoc  # noqa: E402
import torch  # noqa: E402
from diffusers import StableDiffusionPipeline  # noqa: E402

PROTO_FOLDER = pathlib.Path(__file__).resolve().parents[3] / "proto"
COMPONENTS = ("unet", "text_encoder")


def import_stubs():
    """The modules that protoc makes of generation.proto."""
    with tempfile.TemporaryDirectory() as folder:
        code = grpc_tools.protoc.main([
            "protoc", f"-I{PROTO_FOLDER}", f"--python_out={folder}",
            f"--grpc_python_out={folder}",
            str(PROTO_FOLDER / "graft/v1/generation.proto")])
        if code != 0:
            raise RuntimeError(f"protoc: exit code {code}")
        sys.path.insert(0, folder)
        from graft.v1 import generation_pb2, generation_pb2_grpc
        sys.path.remove(folder)
    return generation_pb2, generation_pb2_grpc


pb, pb_grpc = import_stubs()


class Stopwatch:
    """Milliseconds since the last lap."""

    def __init__(self):
        self._last = time.perf_counter()

    def lap(self) -> float:
        now = time.perf_counter()
        milliseconds = (now - self._last) * 1e3
        self._last = now
        return milliseconds


class Painter:
    """The pipeline with its adapters. Used by one thread."""

    def __init__(self, model: pathlib.Path, adapters: pathlib.Path,
                 resident: bool):
        self._pipeline = StableDiffusionPipeline.from_pretrained(
            model, dtype=torch.float32)
        self._pipeline.set_progress_bar_config(disable=True)
        self._adapters = adapters
        self._resident = resident
        self._loaded: set[str] = set()

    def load(self, name: str) -> None:
        if name not in self._loaded:
            self._pipeline.load_lora_weights(
                self._adapters, weight_name=f"{name}.safetensors",
                adapter_name=name)
            self._loaded.add(name)

    def _adapted(self) -> list[str]:
        """The components that some adapter reaches."""
        return [component for component in COMPONENTS if hasattr(
            getattr(self._pipeline, component), "peft_config")]

    def _fuse(self, request) -> None:
        if not request.adapters:
            if self._loaded:
                self._pipeline.disable_lora()
            return
        for adapter in request.adapters:
            self.load(adapter.name)
        names = [adapter.name for adapter in request.adapters]
        weights = [adapter.weight if adapter.HasField("weight") else 1.0
                   for adapter in request.adapters]
        self._pipeline.enable_lora()
        self._pipeline.set_adapters(names, weights)
        self._pipeline.fuse_lora(self._adapted(), adapter_names=names)

    def _unfuse(self, request) -> None:
        if request.adapters:
            self._pipeline.unfuse_lora(self._adapted())
        if not self._resident and self._loaded:
            self._pipeline.unload_lora_weights()
            self._loaded.clear()

    @torch.no_grad()
    def paint(self, request) -> tuple[list[bytes], object]:
        """PNG files, and where the time went."""
        timings = pb.GenerationTimings()
        watch = Stopwatch()
        self._fuse(request)
        timings.switch_ms = watch.lap()
        try:
            count = max(request.count, 1)
            pictures = self._pipeline(
                request.prompt,
                negative_prompt=request.negative_prompt,
                width=request.width or None, height=request.height or None,
                num_inference_steps=request.steps,
                guidance_scale=request.guidance_scale,
                num_images_per_prompt=count,
                generator=[torch.Generator("cpu").manual_seed(request.seed + i)
                           for i in range(count)]).images
            timings.denoise_ms = watch.lap()
            files = []
            for picture in pictures:
                file = io.BytesIO()
                picture.save(file, "PNG")
                files.append(file.getvalue())
            timings.image_encode_ms = watch.lap()
        finally:
            watch.lap()
            self._unfuse(request)
            timings.switch_ms += watch.lap()
        return files, timings


@dataclasses.dataclass
class Job:
    """A request on its way through the worker."""
    request: object
    created: float = dataclasses.field(default_factory=time.perf_counter)
    started: threading.Event = dataclasses.field(
        default_factory=threading.Event)
    result: futures.Future = dataclasses.field(default_factory=futures.Future)
    queue_ms: float = 0.0


class GenerationService(pb_grpc.GenerationServiceServicer):
    """Puts requests into the queue that `work` empties."""

    def __init__(self, painter: Painter, max_queued_requests: int):
        self._painter = painter
        self._jobs: queue.Queue[Job] = queue.Queue(max_queued_requests)

    def work(self) -> None:
        while True:
            job = self._jobs.get()
            job.queue_ms = (time.perf_counter() - job.created) * 1e3
            job.started.set()
            if not job.result.set_running_or_notify_cancel():
                continue
            try:
                job.result.set_result(self._painter.paint(job.request))
            except Exception as error:  # The client's to see, not ours.
                job.result.set_exception(error)

    def GenerateImage(self, request, context):  # noqa: N802, gRPC's name
        job = Job(request)
        try:
            self._jobs.put_nowait(job)
        except queue.Full:
            context.abort(grpc.StatusCode.UNAVAILABLE, "the queue is full")
        context.add_callback(job.result.cancel)
        yield pb.GenerateImageResponse(
            request_id=request.request_id,
            queued=pb.Queued(position=self._jobs.qsize()))
        job.started.wait()
        yield pb.GenerateImageResponse(request_id=request.request_id,
                                       started=pb.Started())
        files, timings = job.result.result()
        timings.queue_ms = job.queue_ms
        for index, data in enumerate(files):
            yield pb.GenerateImageResponse(
                request_id=request.request_id,
                image=pb.ImageChunk(image_index=index, data=data, last=True,
                                    seed=request.seed + index,
                                    total_bytes=len(data)))
        yield pb.GenerateImageResponse(
            request_id=request.request_id,
            finished=pb.Finished(
                seeds=[request.seed + index for index in range(len(files))],
                timings=timings))


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--model", type=pathlib.Path, required=True)
    parser.add_argument("--adapter_dir", type=pathlib.Path, required=True)
    parser.add_argument("--resident", action="store_true")
    parser.add_argument("--preload", default="", metavar="NAME,...",
                        help="adapters, with --resident")
    parser.add_argument("--listen", default="127.0.0.1:0")
    parser.add_argument("--max_queued_requests", type=int, default=256)
    return parser.parse_args()


def main() -> None:
    arguments = parse_arguments()
    painter = Painter(arguments.model, arguments.adapter_dir,
                      arguments.resident)
    for name in filter(None, arguments.preload.split(",")):
        painter.load(name)
    service = GenerationService(painter, arguments.max_queued_requests)
    # A thread for each request that may wait, and some to refuse the others.
    server = grpc.server(futures.ThreadPoolExecutor(
        arguments.max_queued_requests + 16))
    pb_grpc.add_GenerationServiceServicer_to_server(service, server)
    port = server.add_insecure_port(arguments.listen)
    threading.Thread(target=service.work, daemon=True).start()
    server.start()
    host = arguments.listen.rpartition(":")[0]
    print(f"listening on {host}:{port}", flush=True)
    server.wait_for_termination()


if __name__ == "__main__":
    main()
