// A member of a crew in Node, written from docs/protocol.md alone: no package, no client library.
//
// What it does: handlers one at a time, a main activity, calls that wait for their answer, breaks, pauses, stops, and a
// session that is renewed without losing a message. What it leaves out: one-way messages, locks, tools, nudges, helpers.

import { randomBytes } from "node:crypto";
import { connect } from "node:net";

const RECEIVED = ["req", "rep", "prog", "cancel", "ctl"];
const HEARTBEAT_S = 2;
const SEEN_MAX = 10_000;
const fresh = () => randomBytes(12).toString("hex");

export class Agent {
  constructor(name, env = process.env) {
    this.name = env.CREWKEEPER_AGENT ?? name;
    this.role = env.CREWKEEPER_ROLE ?? this.name;
    this.run_ = env.CREWKEEPER_RUN;
    this.servers = env.CREWKEEPER_URL.split(",").map((url) => new URL(url)); // of one cluster; mostly there is one
    this.user = env.CREWKEEPER_USER;
    this.password = `${env.CREWKEEPER_PASSWORD}~${fresh()}`; // the nonce: connections that renew are one process
    this.sessionS = Number(env.CREWKEEPER_SESSION_S ?? 600);
    this.inc = fresh();
    this.seq = 0;
    this.epoch = 0;
    this.term = 0;
    this.handlers = new Map();
    this.tasks = new Map(); // id: {call, caller, chain, wait}
    this.calls = new Map(); // id: {to, task, finish}
    this.queue = []; // calls that came and were not started
    this.seen = new Set(); // subjects of what came, ids of commands that were obeyed
    this.paused = undefined; // a promise, while it is to hold: kept when it may go on
    this.standing = "running";
  }

  handler(verb, work) {
    this.handlers.set(verb, work);
  }

  main(work) {
    this.activity = work;
  }

  async start() {
    this.socket = await this.connection();
    this.note("joined", { role: this.role, pid: process.pid, client: "examples/node", heartbeat_s: HEARTBEAT_S });
    this.beat();
    setInterval(() => this.beat(), HEARTBEAT_S * 1000);
    setInterval(() => this.renew().catch((error) => console.error(error.message)), (this.sessionS * 1000) / 3);
  }

  // --- what goes out ---

  publish(kind, to, id, message) {
    const payload = Buffer.from(JSON.stringify({ inc: this.inc, seq: ++this.seq, ...message }));
    const head = `PUB crew.${this.run_}.${kind}.${this.name}.${to}.${id} ${payload.length}\r\n`;
    this.send(Buffer.concat([Buffer.from(head), payload, Buffer.from("\r\n")]));
  }

  send(frame) {
    if (this.held) this.held.push(frame);
    else this.socket.write(frame);
  }

  note(t, fields) {
    this.publish("note", "_", fresh(), { t, ...fields });
  }

  beat(nonce = "") {
    const tasks = [...this.tasks].map(([task, { call, caller, wait }]) => ({
      task, call, caller,
      wait: wait && { epoch: wait.epoch, condition: wait.condition, for_s: (Date.now() - wait.sinceMs) / 1000 },
    }));
    const calls = [...this.calls].map(([call, { to, task }]) => ({ call, to, task }));
    const queued = this.queue.map(({ id }) => id);
    const how = { nonce, role: this.role, heartbeat_s: HEARTBEAT_S, state: this.standing };
    this.publish("hb", "_", fresh(), { ...how, tasks, calls, queued });
  }

  /** Ask another agent, and wait for its answer; throws what the answer says went wrong, with its `code`. */
  async ask(task, to, verb, body) {
    await this.hold();
    const id = fresh();
    const { chain } = this.tasks.get(task);
    const wait = { epoch: ++this.epoch, condition: { on: "call", call: id }, sinceMs: Date.now() };
    this.publish("req", to, id, { task, verb, body, chain });
    this.note("wait", { task, epoch: wait.epoch, condition: wait.condition });
    this.tasks.get(task).wait = wait;
    return new Promise((resolve, reject) => {
      const finish = (outcome, error, answer) => {
        this.calls.delete(id);
        this.tasks.get(task).wait = undefined;
        this.note("wake", { task, epoch: wait.epoch, outcome });
        if (error) reject(Object.assign(new Error(error.text), error));
        else resolve(answer);
      };
      this.calls.set(id, { to, task, finish });
    });
  }

  // --- what comes in ---

  take(subject, message) {
    const [, , , kind, from, , id] = subject.split(".");
    if (this.known(subject)) return;
    if (kind === "req") {
      this.queue.push({ id, from, message });
      this.next();
    } else if (kind === "rep") {
      const call = this.calls.get(id);
      if (call && [call.to, "_"].includes(from)) {
        call.finish(message.error ? "failed" : "met", message.error, message.body);
      }
    } else if (kind === "cancel") {
      const caller = from === "_" ? message.caller : from;
      this.queue = this.queue.filter((each) => each.id !== id || each.from !== caller);
    } else if (kind === "ctl" && from === "_" && (message.term ?? 0) >= this.term && !this.known(message.id)) {
      this.term = message.term ?? 0;
      this.obey(message);
    }
  }

  known(key) {
    if (this.seen.has(key)) return true;
    this.seen.add(key);
    if (this.seen.size > 2 * SEEN_MAX) this.seen = new Set([...this.seen].slice(SEEN_MAX));
    return false;
  }

  obey(command) {
    if (command.t === "probe") this.beat(command.nonce);
    else if (command.t === "begin" && this.activity && !this.begun) this.work(this.activity, { name: "main" });
    else if (command.t === "break") this.breakWait(command);
    else if (command.t === "pause") {
      this.paused ??= new Promise((resolve) => (this.resume = resolve));
      if (!this.tasks.size) this.stand("paused");
    } else if (command.t === "resume") {
      this.paused = this.resume?.();
      this.stand("running");
      this.next();
    } else if (command.t === "stop") {
      for (const { finish } of this.calls.values()) finish("killed", { code: "killed", text: command.why });
      this.note("left", { why: command.why, done: false });
      this.socket.end(() => process.exit(0)); // once all of it is on its way
    }
  }

  /** Where a task is held while the supervisor pauses this agent. */
  async hold() {
    while (this.paused) {
      this.stand("paused");
      await this.paused;
    }
  }

  stand(state) {
    if (state !== this.standing) this.note("standing", { state });
    this.standing = state;
  }

  breakWait({ task, epoch, code, why, finding, path }) {
    const wait = this.tasks.get(task)?.wait;
    if (wait?.epoch !== epoch) return; // it is over
    const call = this.calls.get(wait.condition.call);
    call.finish("broken", { code: code ?? "would_deadlock", text: why, finding, path });
    this.publish("cancel", call.to, wait.condition.call, { why });
  }

  next() {
    if (this.paused || this.tasks.size || !this.queue.length) return; // one slot
    const { id, from, message } = this.queue.shift();
    const work = this.handlers.get(message.verb ?? "ask");
    this.work(work, { call: id, caller: from, chain: [...(message.chain ?? []), id], body: message.body });
  }

  async work(work, { name, call = "", caller = "", chain = [], body }) {
    const task = fresh();
    this.tasks.set(task, { call, caller, chain });
    if (call) this.note("start", { call, caller, task });
    else this.note("task", { task, name });
    this.begun ||= !call;
    let answer = { error: { code: "no_handler", text: "no handler for this verb" } };
    try {
      if (work) answer = { body: await work(task, body) };
    } catch (error) {
      answer = { error: { code: error.code ?? "handler_failed", text: String(error.message).slice(0, 2000) } };
    }
    await this.hold();
    this.tasks.delete(task);
    if (call) this.publish("rep", caller, call, answer);
    else this.note("end", { task, result: answer.body });
    this.next();
  }

  // --- NATS: lines of text, and payloads of as many bytes as their line says ---

  async connection() {
    for (const [tried, server] of [...this.servers].entries()) {
      try {
        return await this.connectionTo(server);
      } catch (error) {
        if (tried === this.servers.length - 1) throw error;
        this.servers.push(this.servers.shift()); // it is tried last from now on
      }
    }
  }

  connectionTo(server) {
    return new Promise((resolve, reject) => {
      const socket = connect(Number(server.port || 4222), server.hostname);
      let rest = Buffer.alloc(0);
      socket.on("data", (data) => {
        rest = Buffer.concat([rest, data]);
        for (let end = rest.indexOf("\r\n"); end >= 0; end = rest.indexOf("\r\n")) {
          const words = rest.subarray(0, end).toString().split(" ");
          const size = words[0] === "MSG" ? Number(words.at(-1)) + 2 : 0;
          if (rest.length < end + 2 + size) return;
          const payload = rest.subarray(end + 2, end + size).toString();
          rest = rest.subarray(end + 2 + size);
          if (words[0] === "INFO") this.greet(socket);
          else if (words[0] === "PING") socket.write("PONG\r\n");
          else if (words[0] === "PONG") socket.emit("pong");
          else if (words[0] === "MSG") this.take(words[1], JSON.parse(payload));
          else if (words[0] === "-ERR") console.error(words.join(" "));
        }
      });
      socket.once("pong", () => resolve(socket)); // what was subscribed before the PING is in force
      socket.on("error", reject);
      socket.on("close", () => {
        reject(new Error("the server has closed the connection"));
        if (socket === this.socket) process.exit(1); // the host starts it again
      });
    });
  }

  greet(socket) {
    const login = { user: this.user, pass: this.password, verbose: false, lang: "node", version: "1" };
    socket.write(`CONNECT ${JSON.stringify(login)}\r\n`);
    for (const [sid, kind] of RECEIVED.entries()) {
      socket.write(`SUB out.crew.${this.run_}.${kind}.*.${this.name}.* ${sid + 1}\r\n`);
    }
    socket.write("PING\r\n");
  }

  /** Move over to a fresh connection: nothing is lost, what comes on both is taken once, and the order stays. */
  async renew() {
    const fresh = await this.connection();
    const before = this.socket;
    this.held = [];
    await new Promise((resolve) => before.once("pong", resolve).write("PING\r\n")); // all it was given has arrived
    this.socket = fresh;
    before.end();
    const held = this.held;
    this.held = undefined;
    for (const frame of held) this.send(frame);
  }
}
