"""How many requests a second ``trend-client serve`` answers, and how long they take, with 1, 8 and 64 callers.

    python benchmarks/serve_load.py [--data FILE] [--callers 1,8,64] [--seconds 10] [--precisions float32,int8]
        [--blend]

The real process on the loopback interface, one worker, one thread; callers in this process, each of which asks for
one series of the sales file, waits for the answer, and asks for the next. Both share the processors of the machine,
so that the load average before each run stands beside its figures. With ``--blend`` a forecast is made first, and the
service answers with that.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import AsyncExitStack
from dataclasses import asdict, dataclass
from pathlib import Path

import httpx
import numpy as np
import pandas as pd
import psutil

from trend_common.files import write_json


@dataclass(frozen=True)
class Row:
    """One line of the table; milliseconds, ``cpu_ms`` of the service's processor time a request."""

    precision: str
    callers: int
    requests: int
    per_second: float
    p50: float
    p99: float
    windows_a_pass: float
    cpu_ms: float
    load_before: float


def synthetic(path: Path, series: int = 200, days: int = 400) -> None:
    """Sales with a week and noise."""
    rng = np.random.default_rng(0)
    dates = pd.date_range("2025-01-01", periods=days).strftime("%Y-%m-%d")
    week = 1 + 0.4 * np.sin(2 * np.pi * np.arange(days) / 7)
    rows = [
        pd.DataFrame(
            {
                "date": dates,
                "store": f"s{number % 4}",
                "product": f"p{number}",
                "units": rng.poisson(np.exp(rng.normal(2, 1)) * week),
            }
        )
        for number in range(series)
    ]
    pd.concat(rows).to_csv(path, index=False)


class Service:
    """The process."""

    def __init__(self, folder: Path, data: Path, precision: str) -> None:
        self.log = folder / "serve.log"
        command = [sys.executable, "-m", "trend_client.cli", "serve", "--home", str(folder / "home")]
        command += ["--data", str(data), "--port", "0", "--threads", "1", "--precision", precision, "--device", "cpu"]
        with self.log.open("wb") as output:
            self.process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT)
        self.token_file = folder / "home" / "serve" / "token"

    def ready(self) -> tuple[str, dict[str, str]]:
        """Address and headers, once it answers."""
        for _ in range(1800):
            if self.process.poll() is not None:
                break
            found = re.search(r"Listening on (\S+)", self.log.read_text("utf-8"))
            if found and self.token_file.is_file():
                headers = {"Authorization": f"Bearer {self.token_file.read_text().strip()}"}
                try:
                    if httpx.get(f"{found[1]}/ready", trust_env=False).status_code == 200:
                        return found[1], headers
                except httpx.TransportError:
                    pass
            time.sleep(0.1)
        raise SystemExit(f"the service did not start:\n{self.log.read_text('utf-8')}")

    def cpu(self) -> float:
        """Seconds of processor time so far."""
        times = psutil.Process(self.process.pid).cpu_times()
        return float(times.user + times.system)

    def stop(self) -> None:
        """Ctrl-C."""
        self.process.send_signal(signal.SIGINT)
        self.process.wait(60)


async def load(address: str, headers: dict[str, str], callers: int, seconds: float) -> tuple[list[float], float]:
    """Seconds of each request, and of all."""
    taken: list[float] = []
    async with AsyncExitStack() as stack:
        # One connection each: callers that share a pool wait for the pool, and it is the service that is measured.
        clients = [
            await stack.enter_async_context(
                httpx.AsyncClient(base_url=address, headers=headers, timeout=60, trust_env=False, verify=False)
            )
            for _ in range(callers)
        ]
        found = [await client.get("/v1/series", params={"limit": 1000}) for client in clients]
        ids = [one["id"] for one in found[0].json()["series"]]
        begin = time.perf_counter()
        end = begin + seconds

        async def caller(number: int, client: httpx.AsyncClient) -> None:
            at = number
            while (start := time.perf_counter()) < end:
                body = {"ids": [ids[at % len(ids)]], "horizon": 28, "levels": [0.1, 0.5, 0.9]}
                answer = await client.post("/v1/forecast", json=body)
                answer.raise_for_status()
                taken.append(time.perf_counter() - start)
                at += callers

        await asyncio.gather(*(caller(number, client) for number, client in enumerate(clients)))
        return taken, time.perf_counter() - begin


def passes(address: str, headers: dict[str, str]) -> tuple[float, float]:
    """Windows and forward passes so far."""
    text = httpx.get(f"{address}/metrics", headers=headers, trust_env=False).text
    found = [re.search(rf"^trend_batch_windows_{name} (\S+)$", text, re.MULTILINE) for name in ("sum", "count")]
    return tuple(float(one[1]) if one else 0.0 for one in found)  # type: ignore[return-value]


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--callers", default="1,8,64")
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--precisions", default="float32,int8")
    parser.add_argument("--blend", action="store_true")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    rows: list[Row] = []
    for precision in options.precisions.split(","):
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            data = options.data or folder / "sales.csv"
            if options.data is None:
                synthetic(data)
            if options.blend:
                made = ["forecast", "--home", str(folder / "home"), "--data", str(data.absolute()), "--device", "cpu"]
                subprocess.run([sys.executable, "-m", "trend_client.cli", *made], check=True, capture_output=True)
            service = Service(folder, data.absolute(), precision)
            try:
                address, headers = service.ready()
                asyncio.run(load(address, headers, 1, 1.0))
                for callers in map(int, options.callers.split(",")):
                    busy = os.getloadavg()[0] if hasattr(os, "getloadavg") else float("nan")
                    before, used = passes(address, headers), service.cpu()
                    taken, wall = asyncio.run(load(address, headers, callers, options.seconds))
                    after = passes(address, headers)
                    p50, p99 = np.quantile(taken, (0.5, 0.99)) * 1000
                    cpu = 1000 * (service.cpu() - used) / max(len(taken), 1)
                    mean = (after[0] - before[0]) / max(after[1] - before[1], 1)
                    row = Row(precision, callers, len(taken), len(taken) / wall, p50, p99, mean, cpu, busy)
                    rows.append(row)
                    print(
                        f"{precision:8} {callers:3} callers: {row.per_second:7.1f} requests/s, p50 {p50:7.1f} ms, "
                        f"p99 {p99:7.1f} ms, {mean:4.1f} windows a pass, {cpu:.1f} ms CPU a request "
                        f"(load before: {busy:.1f})",
                        flush=True,
                    )
            finally:
                service.stop()
    if options.json is not None:
        write_json(options.json, {"rows": [asdict(row) for row in rows]})


if __name__ == "__main__":
    main()
