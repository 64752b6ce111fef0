"""The chapter of docs/protocol.md for agents in other languages, with two complete programs.

The programs are run by the tests, against real servers.
"""

from __future__ import annotations

from typing import Final

from langmesh.wire import examples, streams, subjects

_RELEASE: Final = "plain"
_NODE: Final = "reviewer"
_EXEC = subjects.execution(examples.TENANT, examples.GRAPH, _NODE, _RELEASE)
_CONSUMER = subjects.exec_consumer(_EXEC)
_REGISTER = subjects.rpc(examples.TENANT, "agent.register")

_TEXT = f"""\
## Agents in other languages

Any program that pulls tasks from its consumer and writes their outcomes to their slots can serve a
node. Bind the node to a release of its own with the encoding `json`, here by
`langmesh bind {examples.GRAPH} {_NODE} --release {_RELEASE} --encoding json`: its tasks are then
[`PlainTask`](#plaintask) objects, with values that JSON holds.

1. Register: [`agent.register`](#registeragent) answers which consumer to pull from, here
   `{_CONSUMER}` on stream {streams.EXEC.name}, and makes sure that it is there. Ask again
   before `renew_before_s` is over, for as long as the program serves: it then shows in
   `langmesh status`, and no run tells that it waits for the node. Any coordinator answers; while
   none does, tasks come all the same. [`agent.unregister`](#unregisteragent) takes it back at once.
2. Pull a task. Its `payload.input` is what a Python node would get.
3. Write a [`task.outcome.v1`](#taskoutcomev1) to `payload.slot` and wait until the broker has
   stored it. Leave `writes` out and put what the node returns into `update` (`{{}}` when it changes
   nothing); the coordinator applies it and calls the graph's branches. `header` and `context` are
   the task's, but for `header.type` and `header.sender`. Error 10077 says that another delivery of
   the task was faster: if the slot holds a message, go on.
4. Acknowledge the task, never before the outcome is stored. While it runs longer than
   {streams.EXEC_ACK_WAIT_S:g} s, publish `+WPI` to its reply subject every few seconds.

A node that fails writes `kind` `error` and a [`fault`](#fault), or `retry` with `delay_ms`, which
counts as `error` after the attempts that the graph's retry policy allows. One that asks a human
writes `interrupt` and its `question`; it is called again with the answers in `payload.resume`.
Input that is larger than a message fails the task with `payload_too_large`.
"""

_LEAST = f"""\
The least that serves, with nats-py; it does not register, so that runs tell that they wait for the
node, and are served all the same:

```python
# least.py
import asyncio, json, os

import nats


async def main():
    nc = await nats.connect(os.environ.get("NATS_URL", "nats://127.0.0.1:4222"))
    js = nc.jetstream()
    tasks = await js.pull_subscribe_bind("{_CONSUMER}", "{streams.EXEC.name}")
    while True:
        try:
            [delivery] = await tasks.fetch(1, timeout=30)
        except nats.errors.TimeoutError:
            continue
        task = json.loads(delivery.data)
        task["header"] |= {{"type": "task.outcome.v1", "sender": "least.py"}}
        asked = task["payload"]
        update = {{"score": 1.0, "answer": asked["input"]["draft"] + "\\n\\nReviewed in Python."}}
        outcome = {{"kind": "ok", "task_id": asked["task_id"], "attempt": asked["attempt"]}}
        task["payload"] = outcome | {{"update": update}}
        try:
            await js.publish(asked["slot"], json.dumps(task).encode())
        except nats.js.errors.BadRequestError:  # filled already, or the stream is full
            await js.get_last_msg("{streams.SLOT.name}", asked["slot"])
        await delivery.ack()


asyncio.run(main())
```
"""

_PYTHON = f"""\
One that registers, and that goes on without a coordinator:

```python
# reviewer.py
import asyncio, json, os

import nats

ME = {{"graph": "{examples.GRAPH}", "node": "{_NODE}", "release": "{_RELEASE}"}}
ME["instance"] = "reviewer-" + os.urandom(4).hex()


def review(state):
    answer = state["draft"] + "\\n\\nReviewed in Python."
    return {{"score": 1.0, "feedback": None, "answer": answer}}


async def register(nc):
    while True:
        try:
            me = json.dumps(ME).encode()
            answer = await nc.request("{_REGISTER}", me, timeout=5)
        except (nats.errors.NoRespondersError, nats.errors.TimeoutError):
            place = {{"error": {{"retryable": True}}}}  # no coordinator is there at the moment
        else:
            place = json.loads(answer.data)
        if "error" not in place:
            return place
        if not place["error"]["retryable"]:
            raise RuntimeError(place["error"]["message"])
        await asyncio.sleep(1)


async def stay_registered(nc, place):
    while True:
        await asyncio.sleep(place["renew_before_s"] - 1)
        place = await register(nc)


async def serve(nc, place):
    js = nc.jetstream()
    tasks = await js.pull_subscribe_bind(place["consumer"], place["stream"])
    while True:
        try:
            [delivery] = await tasks.fetch(1, timeout=30)
        except nats.errors.TimeoutError:
            continue
        task = json.loads(delivery.data)
        header = task["header"] | {{"type": "task.outcome.v1", "sender": ME["instance"]}}
        asked = task["payload"]
        payload = {{"kind": "ok", "task_id": asked["task_id"], "attempt": asked["attempt"]}}
        payload["update"] = review(asked["input"])
        outcome = {{"header": header, "payload": payload, "context": task["context"]}}
        try:
            await js.publish(asked["slot"], json.dumps(outcome).encode())
        except nats.js.errors.BadRequestError as refused:
            if refused.err_code != 10077:
                raise
            await js.get_last_msg("{streams.SLOT.name}", asked["slot"])
        await delivery.ack()


async def main():
    async with await nats.connect(os.environ.get("NATS_URL", "nats://127.0.0.1:4222")) as nc:
        place = await register(nc)
        await asyncio.gather(stay_registered(nc, place), serve(nc, place))


asyncio.run(main())
```
"""

_JAVASCRIPT = f"""\
With Node.js and no library at all, speaking the NATS protocol over a socket:

```javascript
// reviewer.mjs
import net from "node:net";

const review = (state) =>
  ({{ score: 1.0, feedback: null, answer: state.draft + "\\n\\nReviewed in JavaScript." }});

const url = new URL(process.env.NATS_URL ?? "nats://127.0.0.1:4222");
const socket = net.connect(Number(url.port || 4222), url.hostname);
const inbox = "_INBOX.reviewer" + process.pid + Date.now();
const slots = "$JS.API.DIRECT.GET.{streams.SLOT.name}";
const me = {{
  graph: "{examples.GRAPH}",
  node: "{_NODE}",
  release: "{_RELEASE}",
  instance: "reviewer-" + Math.random().toString(36).slice(2),
}};
const publish = (subject, body, reply = "") =>
  socket.write(`PUB ${{subject}} ${{reply}} ${{Buffer.byteLength(body)}}\\r\\n${{body}}\\r\\n`);
const pull = () => publish(next, '{{"batch":1,"expires":30000000000}}', inbox + ".task");
const register = () => publish("{_REGISTER}", JSON.stringify(me), inbox + ".place");

let next = ""; // asks for a task, once a coordinator has told where
let done = null; // acknowledges the task whose outcome is being stored
function onMessage(subject, reply, body) {{
  if (subject === inbox + ".place") {{
    const place = JSON.parse(body || '{{"error":{{"retryable":true}}}}'); // empty: no coordinator
    if (place.error && !place.error.retryable) throw new Error(place.error.message);
    if (place.error || next) return;
    next = `$JS.API.CONSUMER.MSG.NEXT.${{place.stream}}.${{place.consumer}}`;
    return pull();
  }}
  if (subject === inbox + ".stored") {{
    const answer = JSON.parse(body);
    if (answer.error && answer.error.err_code !== 10077) throw new Error(body);
    if (answer.error) return publish(slots, done.asked, inbox + ".slot");
    return done.ack();
  }}
  if (subject === inbox + ".slot") return body ? done.ack() : process.exit(1);
  if (!body || !reply) return pull(); // a status: nothing to do until the request ran out
  const task = JSON.parse(body);
  const {{ task_id, attempt, slot, input }} = task.payload;
  const header = {{ ...task.header, type: "task.outcome.v1", sender: me.instance }};
  const payload = {{ kind: "ok", task_id, attempt, update: review(input) }};
  done = {{
    asked: JSON.stringify({{ last_by_subj: slot }}),
    ack: () => (publish(reply, "+ACK"), pull()),
  }};
  publish(slot, JSON.stringify({{ header, payload, context: task.context }}), inbox + ".stored");
}}

let received = Buffer.alloc(0);
socket.on("data", (data) => {{
  received = Buffer.concat([received, data]);
  for (let end; (end = received.indexOf("\\r\\n")) >= 0; ) {{
    const [verb, subject, , ...rest] = received.toString("utf8", 0, end).split(" ");
    let size = 0;
    if (verb === "MSG" || verb === "HMSG") {{
      size = Number(rest.at(-1)) + 2;
      if (received.length < end + 2 + size) return; // the rest is on its way
      const head = verb === "HMSG" ? Number(rest.at(-2)) : 0;
      const reply = rest.length > (verb === "HMSG" ? 2 : 1) ? rest[0] : "";
      onMessage(subject, reply, received.toString("utf8", end + 2 + head, end + size));
    }} else if (verb === "PING") socket.write("PONG\\r\\n");
    else if (verb === "-ERR") throw new Error(received.toString("utf8", 0, end));
    received = received.subarray(end + 2 + size);
  }}
}});
socket.on("close", () => process.exit(1));
socket.write('CONNECT {{"verbose":false,"headers":true,"no_responders":true}}\\r\\n');
socket.write(`SUB ${{inbox}}.* 1\\r\\n`);
register();
setInterval(register, 4000); // the answer's renew_before_s is 5
```
"""


def chapter() -> str:
    """The chapter as Markdown."""
    return f"{_TEXT}\n{_LEAST}\n{_PYTHON}\n{_JAVASCRIPT}"
