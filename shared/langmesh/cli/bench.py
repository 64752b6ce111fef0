"""``langmesh bench``: figures that hold for this machine, as ratios within one run."""

from __future__ import annotations

import argparse
from typing import Any

from langmesh.bench.configuration import configuration_in_force
from langmesh.bench.durable import profiles_beside_sqlite
from langmesh.bench.measure import chain_on_mesh
from langmesh.bench.recovery import recovery_from_kills
from langmesh.bench.retained import threads_retained
from langmesh.cli.arguments import positive
from langmesh.cli.terminal import say, say_json, table
from langmesh.settings import Settings


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument(
        "which",
        choices=["chain", "durability", "recovery", "retained", "config"],
        help="chain: steps per second beside LangGraph in one process and a bare durable hop;"
        " durability: both profiles beside LangGraph in one process with a SQLite saver;"
        " recovery: how much later runs end when processes are killed under them;"
        " retained: what threads whose runs are over and pruned cost the broker and a coordinator;"
        " config: until a change of configuration counts in all agents",
    )
    parser.add_argument("--steps", type=positive, default=10, help="nodes in the chain")
    parser.add_argument("--concurrency", type=positive, default=64, help="runs at once")
    parser.add_argument(
        "--runs", type=positive, help="runs in all; enough for some seconds if not given"
    )
    parser.add_argument(
        "--agents",
        type=positive,
        help="agent processes; chain: one per two cores if not given; config: 50",
    )
    parser.add_argument(
        "--threads", type=positive, default=1_000_000, help="retained: how many threads"
    )
    parser.add_argument(
        "--rounds",
        type=positive,
        default=10,
        help="changes of configuration, or kills of each kind",
    )


async def command(args: argparse.Namespace, settings: Settings) -> int:
    """Run the benchmark and print its figures."""
    if not args.json:
        say("measuring; this takes a minute or so …")
    if args.which == "config":
        figures = await configuration_in_force(
            settings, instances=args.agents or 50, rounds=args.rounds
        )
    elif args.which == "retained":
        figures = await threads_retained(settings, threads=args.threads)
    elif args.which == "recovery":
        figures = await recovery_from_kills(settings, runs=args.runs or 8, rounds=args.rounds)
    else:
        measure = chain_on_mesh if args.which == "chain" else profiles_beside_sqlite
        figures = await measure(
            settings,
            steps=args.steps,
            concurrency=args.concurrency,
            runs=args.runs,
            agents=args.agents,
        )
    if args.json:
        say_json(figures)
    elif args.which == "config":
        _show_config(figures)
    elif args.which == "retained":
        _show_retained(figures)
    elif args.which == "recovery":
        _show_recovery(figures)
    elif args.which == "durability":
        _show_durability(figures)
    else:
        _show_chain(figures)
    return 0


def _show_chain(figures: dict[str, Any]) -> None:
    single = figures["single"]
    say(f"mesh       {figures['steps_per_s']:>8} steps/s at {figures['concurrency']} runs")
    say(f"LangGraph  {figures['langgraph']['steps_per_s']:>8} steps/s in one process, no saver")
    say(f"ratio      {figures['ratio_to_langgraph']:>8}")
    ratio = single["ratio_to_raw_hop"]
    say(f"one run    {single['step_ms_p50']:>8} ms per step, {ratio} × a raw hop")
    say(f"messages   {figures['messages_per_step']:>8} stored per step, in files")
    say()
    rows = [(name, f"{us} µs") for name, us in figures["cpu_us_per_step"].items()]
    for line in table(("PROCESS", "CPU PER STEP"), rows):
        say(line)


def _show_durability(figures: dict[str, Any]) -> None:
    sqlite = figures["sqlite"]
    say(
        f"{figures['steps']} steps, {figures['concurrency']} runs at once, durability sync,"
        f" {figures['coordinators']} coordinators"
    )
    pragmas = (
        f"journal_mode {sqlite['pragma_journal_mode']}, synchronous {sqlite['pragma_synchronous']}"
    )
    rows = [("LangGraph with SQLite", str(sqlite["steps_per_s"]), "1", pragmas)]
    for name, found in figures["profiles"].items():
        row = (name, str(found["steps_per_s"]), str(found["ratio_to_sqlite"]), found["sync"])
        rows.append(row)
    for line in table(("", "STEPS/S", "RATIO", "SYNC"), rows):
        say(line)


def _show_recovery(figures: dict[str, Any]) -> None:
    say(
        f"{figures['runs_in_flight']} runs in flight at each of {figures['rounds']} kills of a kind"
    )
    rows = [
        (what, str(found["runs"]), *(f"{found[f's_{name}']} s" for name in ("p50", "p99", "max")))
        for what, found in figures["recovery"].items()
    ]
    for line in table(("KILLED", "RUNS", "LATER P50", "P99", "MAX"), rows):
        say(line)


def _show_retained(figures: dict[str, Any]) -> None:
    sent = figures["messages_of_coordinator"]
    say(f"{figures['threads']:,} threads, {figures['entry_bytes']} bytes each")
    say(f"restart    {figures['broker_restart_s']:>8} s after kill -9 of nats-server")
    say(f"memory     {figures['broker_rss_mb']:>8} MB, later {figures['broker_rss_mb_later']} MB")
    say(f"disk       {figures['disk_mb']:>8} MB")
    say(f"messages   {sent['full']:>8} of a coordinator at its start, {sent['empty']} without them")


def _show_config(figures: dict[str, Any]) -> None:
    say(f"{figures['rounds']} changes in {figures['instances']} agent processes")
    for name in ("p50", "p99", "max"):
        say(f"in force   {figures[f'in_force_ms_{name}']:>8} ms {name}")
    say(f"raw watch  {figures['raw_watch_ms_p50']:>8} ms p50")
    say(f"ratio      {figures['ratio_to_raw_watch']:>8}")
