"""What serving costs: the engine against `Generator`, against itself one request at a time, and
against transformers' continuous batching, same shape, f32.

    python -m tests.benchmarks.serving [--peer PYTHON] [--shape mini] [--turns 3] [--new 128]
                                       [--engines 2] [--weights int8]

    alone     one request of 32 tokens: seconds per token, engine over generator (at most 1.05)
    mixed     sixteen requests of 16 to 512 tokens with answers of 32 to 160, arriving over time:
              tokens/s over those of the same requests one after the other (at least 3), and over
              the peer's (at least 2)
    engines   the same sixteen through a service of several engines, as `seekjax serve --engines 2`
              has it, over those of one engine
    short     time to first token of a short prompt while one of 4,000 tokens is read, in chunks
              (under 2)
    prefix    time to first token of a prompt of 1,040 tokens, cold over cached (at least 5)

With --weights both our sides, engine and generator, have quantised weights; the peer keeps its own.
Weights are random, those of both sides are drawn in the same way. The peer is a process of its own
that sleeps while ours runs; they take turns. transformers 5.24 gives DeepSeek's latent cache too
many heads of the wrong width and fails, so its allocator is patched here to pad the rotary key.
Results: tests/benchmarks/results/serving.md
"""

import argparse
import os
import sys
import time
from statistics import median

from tests.benchmarks.decode import NAMES, SHAPES, drawn
from tests.benchmarks.harness import Side, serve

LENGTHS = (16, 512, 32, 24, 256, 64, 128, 48, 384, 16, 96, 192, 32, 160, 80, 40)
ANSWERS = (160, 64, 128, 96, 48, 160, 80, 112, 32, 144, 128, 64, 160, 96, 112, 128)
GAP = 0.05  # seconds between arrivals


def requests_of(vocab: int, seed: int) -> list[tuple[list[int], int]]:
    import numpy as np

    random = np.random.default_rng(seed)
    pairs = zip(LENGTHS, ANSWERS, strict=True)
    return [(random.integers(0, vocab, length).tolist(), new) for length, new in pairs]


def ours(shape: str, new: int, engines: int, weights: str):
    import asyncio

    import numpy as np

    from seekjax.config import KernelConfig, ModelConfig
    from seekjax.generate.engine.engine import Engine, EngineSettings
    from seekjax.generate.engine.request import Request, RequestSampling
    from seekjax.generate.generator import Generator
    from seekjax.generate.sampling import Sampling
    from seekjax.model.abstract import named_variables
    from seekjax.quant.tree import quantise_tree
    from seekjax.serve.service import Service
    from sharding.place import axes_of
    from tests.benchmarks.mini import heading

    model = ModelConfig(**SHAPES[shape], mtp_depth=0, init_std=0.02)
    variables = drawn(model)
    if weights != "float32":
        axes = axes_of(named_variables(model))["params"]
        kernel = KernelConfig(weights=weights)
        variables["params"] = quantise_tree(variables["params"], axes, kernel, consume=True)
    generator = Generator(model, variables, KernelConfig(), draft=False)
    engine = Engine(model, variables, KernelConfig(), EngineSettings(), consume=True)
    began = time.perf_counter()
    engine.compile()
    compiled = time.perf_counter() - began
    several = [engine, *(engine.another() for _ in range(engines - 1))]
    random = np.random.default_rng(0)

    def ask(prompt, new) -> Request:
        return Request(prompt, RequestSampling(max_new=new, temperature=0))

    def finish(arrivals) -> tuple[float, dict, dict]:
        """Serve (seconds, request) pairs; return all seconds, those until the first tokens of each
        request, and how many these were."""
        waiting, first, count = list(arrivals), {}, {}
        began = time.perf_counter()
        while waiting or not engine.idle:
            now = time.perf_counter() - began
            while waiting and waiting[0][0] <= now:
                engine.submit(waiting.pop(0)[1])
            if engine.idle:
                time.sleep(0.001)
                continue
            updates = engine.step()
            after = time.perf_counter() - began
            for update in updates:
                if update.tokens and update.request not in first:
                    first[update.request] = after
                    count[update.request] = len(update.tokens)
        return time.perf_counter() - began, first, count

    def alone(_turn):
        """Seconds per token after those that come first, engine and generator."""
        prompt = random.integers(0, model.vocab, 32).tolist()
        request = ask(prompt, new)
        whole, first, count = finish([(0, request)])
        engine_pace = (whole - first[request]) / (new - count[request])

        generation = generator.stream([prompt], Sampling(max_new=new, temperature=0), chunk=new)
        for _ in generation:
            pass
        (first, _), *_, (last, _) = generation.timings
        return engine_pace, (last - first) / (new - 1)

    def mixed(turn):
        arrivals = enumerate(requests_of(model.vocab, int(turn)))
        whole, _, _ = finish([(GAP * i, ask(*pair)) for i, pair in arrivals])
        return sum(ANSWERS) / whole

    class Ending:
        """In the place of an answer: waits for the end alone."""

        finished = False

        def feed(self, update):
            self.finished = bool(update.finish_reason)
            return []

    async def through_service(arrivals) -> float:
        """Serve (seconds, request) pairs by several engines; return all seconds."""
        service = Service(several, len(LENGTHS))
        service.start()
        began = time.perf_counter()

        async def one(when, request):
            await asyncio.sleep(when)
            answers = await service.begin({request: Ending()})
            async for _ in answers.events():
                pass

        await asyncio.gather(*(one(*arrival) for arrival in arrivals))
        seconds = time.perf_counter() - began
        await service.stop(0)
        return seconds

    def by_engines(turn):
        arrivals = enumerate(requests_of(model.vocab, 2000 + int(turn)))
        arrivals = [(GAP * i, ask(*pair)) for i, pair in arrivals]
        return sum(ANSWERS) / asyncio.run(through_service(arrivals))

    def serial(turn):
        seconds = 0.0
        for pair in requests_of(model.vocab, 1000 + int(turn)):
            whole, _, _ = finish([(0, ask(*pair))])
            seconds += whole
        return sum(ANSWERS) / seconds

    def short(_turn):
        """Seconds to the first token of the short prompt, and of a chunk."""
        long = ask(random.integers(0, model.vocab, 4000).tolist(), 2)
        _, first, _ = finish([(0, long)])
        chunk = first[long] / (4000 / engine.settings.chunk)
        late = 0.4 * first[long]

        long = ask(random.integers(0, model.vocab, 4000).tolist(), 2)
        brief = ask(random.integers(0, model.vocab, 20).tolist(), 2)
        _, first, _ = finish([(0, long), (late, brief)])
        return first[brief] - late, chunk

    def prefix(_turn):
        prompt = random.integers(0, model.vocab, 1040).tolist()
        seconds = []
        for _ in range(2):
            request = ask(prompt, 2)
            _, first, _ = finish([(0, request)])
            seconds.append(first[request])
        return tuple(seconds)

    cases = {
        "alone": alone,
        "mixed": mixed,
        "engines": by_engines,
        "serial": serial,
        "short": short,
        "prefix": prefix,
    }

    def run(line: str):
        case, turn = line.split()
        return cases[case](turn)

    return run, f"{heading()}; {engine.pool.total} pages; compiled in {compiled:.0f} s"


def peer(shape: str):
    """Tokens/s of the same requests through transformers' continuous batching."""
    import torch
    import torch.nn.functional as F
    import transformers
    from transformers import DeepseekV3Config, DeepseekV3ForCausalLM, GenerationConfig
    from transformers.generation.continuous_batching.cache_allocators import full_attention

    allocator = full_attention.FullAttentionCacheAllocator
    update_equal_widths = allocator.update

    def update(self, latent, key, *indices):
        width = key.shape[-1]
        padded = F.pad(key, (0, latent.shape[-1] - width))
        latent, key = update_equal_widths(self, latent, padded, *indices)
        return latent, key[..., :width]

    allocator.update = update
    torch.manual_seed(0)
    config = DeepseekV3Config(
        **{theirs: SHAPES[shape][name] for theirs, name in NAMES.items()},
        tie_word_embeddings=False,
        eos_token_id=None,
        bos_token_id=None,
        pad_token_id=0,
    )
    model = DeepseekV3ForCausalLM._from_config(config, experts_implementation="grouped_mm").eval()
    config.num_key_value_heads, config.head_dim = 1, config.kv_lora_rank
    settings = GenerationConfig(do_sample=False, eos_token_id=-1, pad_token_id=0)
    manager = model.init_continuous_batching(generation_config=settings)
    manager.start()

    def run(line: str):
        _, turn = line.split()
        waiting = requests_of(config.vocab_size, int(turn))
        began, done, submitted, tokens = time.perf_counter(), 0, 0, 0
        while done < len(waiting):
            now = time.perf_counter() - began
            while submitted < len(waiting) and GAP * submitted <= now:
                prompt, new = waiting[submitted]
                manager.add_request(prompt, max_new_tokens=new)
                submitted += 1
            result = manager.get_result(timeout=0.01)
            if result is not None and result.is_finished():
                assert not result.error, result.error
                tokens += len(result.generated_tokens)
                done += 1
        assert tokens == sum(ANSWERS)
        return tokens / (time.perf_counter() - began)

    return run, f"torch {torch.__version__}, transformers {transformers.__version__}"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--peer", default=sys.executable, help="the interpreter that has torch and transformers"
    )
    parser.add_argument("--shape", choices=SHAPES, default="mini")
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--new", type=int, default=128, help="tokens of the request alone")
    parser.add_argument("--engines", type=int, default=2)
    parser.add_argument("--weights", choices=["float32", "int8", "int4", "fp8"], default="float32")
    parser.add_argument("--no-peer", action="store_true", help="ours alone")
    parser.add_argument("--serve", choices=["ours", "peer"], help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        sides = {
            "ours": lambda: ours(options.shape, options.new, options.engines, options.weights),
            "peer": lambda: peer(options.shape),
        }
        return serve(*sides[options.serve]())

    def start(name, python):
        words = ["--shape", options.shape, "--new", str(options.new), "--serve", name]
        words += ["--engines", str(options.engines), "--weights", options.weights]
        return Side(name, [python, "-m", "tests.benchmarks.serving", *words])

    us = start("ours", sys.executable)
    print(f"ours: {us.answer()}", flush=True)
    them = None
    if not options.no_peer:
        them = start("peer", options.peer)
        print(f"peer: {them.answer()}", flush=True)

    own = ("alone", "mixed", "engines", "serial", "short", "prefix")
    seen = {case: [] for case in (*own, "peer")}
    for turn in range(options.turns + 1):  # the first one warms
        for case in own:
            seen[case].append(us.run(f"{case} {turn}"))
        if them is not None:
            seen["peer"].append(them.run(f"mixed {turn}"))
    seen = {case: runs[1:] for case, runs in seen.items()}

    def middle(case, i):
        return median(run[i] for run in seen[case])

    print(
        f"\n{options.shape}, {options.turns} turns, medians\n\n| | | | ratio |\n|---|---|---|---|"
    )
    engine, generator = middle("alone", 0), middle("alone", 1)
    ratio = median(a / b for a, b in seen["alone"])
    print(
        f"| alone, ms per token | engine {1e3 * engine:.2f} | generator {1e3 * generator:.2f} | {ratio:.3f} |"
    )
    names = {
        "mixed": "together",
        "engines": f"{options.engines} engines",
        "serial": "one by one",
        "peer": "peer",
    }
    pairs = [("mixed", "serial"), ("engines", "mixed"), ("engines", "serial")]
    if them is not None:
        pairs += [("mixed", "peer"), ("engines", "peer")]
    for this, that in pairs:
        ratio = median(a / b for a, b in zip(seen[this], seen[that]))
        columns = [f"{names[case]} {median(seen[case]):.1f}" for case in (this, that)]
        print(f"| sixteen, tokens/s | {' | '.join(columns)} | {ratio:.2f} |")
    first, chunk = middle("short", 0), middle("short", 1)
    ratio = median(a / b for a, b in seen["short"])
    print(
        f"| short beside 4K, ms | first token {1e3 * first:.0f} | chunk {1e3 * chunk:.0f} | {ratio:.2f} |"
    )
    cold, hit = middle("prefix", 0), middle("prefix", 1)
    ratio = median(a / b for a, b in seen["prefix"])
    print(f"| prefix of 1K, ms | cold {1e3 * cold:.0f} | hit {1e3 * hit:.1f} | {ratio:.1f} |")
    print(f"\nload {os.getloadavg()[0]:.1f}")
    us.close()
    if them is not None:
        them.process.kill()


if __name__ == "__main__":
    main()
