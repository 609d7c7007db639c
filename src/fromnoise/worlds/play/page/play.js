"use strict";
// Draws the frames that the server sends and tells it which buttons are pressed; what a frame is, the server knows.
const $ = (id) => document.getElementById(id);
const NAMES = { ArrowUp: "↑", ArrowDown: "↓", ArrowLeft: "←", ArrowRight: "→", Space: "space" };
const CROSS = { up: "↑", down: "↓", left: "←", right: "→" };
const PAGE = { KeyP: "pause", KeyN: "step", KeyR: "rewind", KeyB: "branch", Enter: "reset" };
const KEPT = 400, TIMES = 200;  // frames that can be looked back at, and frames of the graph

let socket = null, told = null, facts = {}, frames = new Map(), scrubbing = false, repeating = 0;
let pressed = [], times = [], arrivals = [], thumbnails = new Map(), wanted = "";
const buttonOf = new Map();  // of a key

const send = (message) => { if (socket && socket.readyState === WebSocket.OPEN) socket.send(JSON.stringify(message)); };
const say = (text, bad) => { $("said").textContent = text; $("said").classList.toggle("bad", Boolean(bad)); };
const element = (name, properties = {}, ...children) => {
  const made = Object.assign(document.createElement(name), properties);
  made.append(...children);
  return made;
};

// ---- the socket ----

const open = () => {
  const address = new URL("socket" + location.search, location.href);
  address.protocol = address.protocol === "https:" ? "wss:" : "ws:";
  socket = new WebSocket(address);
  socket.binaryType = "arraybuffer";
  socket.onmessage = ({ data }) => { if (typeof data === "string") hear(JSON.parse(data)); else see(data); };
  socket.onclose = () => {
    cover(wanted || "The connection has ended: touch here to play on.");
    for (const button of document.querySelectorAll(".bar button")) button.disabled = true;
  };
};
const hear = (message) => {
  if (message.type === "hello") greet(message);
  if (message.type === "error") say(message.what, true);
  if (message.type === "end") { wanted = message.why; say(""); }
  if (message.type === "film") {
    element("a", { href: message.at, download: `${told.run.replace(/.*\//, "") || "world"}.mp4` }).click();
    say("The film is in your downloads.");
  }
};
const greet = (message) => {
  told = message;
  $("run").textContent = told.run;
  document.title = `${told.run}: play`;
  $("budget").textContent = milliseconds(1000 / told.fps);
  for (const figure of ["world", "real"]) {
    const canvas = $(figure).querySelector("canvas");
    canvas.width = told.width;
    canvas.height = told.height;
  }
  $("real").hidden = !told.beside;
  $("screens").classList.toggle("two", Boolean(told.beside));
  $("which").textContent = `: ${told.beside}`;
  if (told.note) say(told.note);
  $("hint").textContent = told.waits ? "Nothing moves until you do: each press is a step." : "";
  layKeys();
};

// ---- frames ----

const see = (data) => {
  const length = new DataView(data).getUint32(0, true);
  facts = JSON.parse(new TextDecoder().decode(new Uint8Array(data, 4, length)));
  const size = told.width * told.height * 3, pixels = new Uint8Array(data, 4 + length);
  const frame = { number: facts.number, told: facts, world: image(pixels.subarray(0, size)),
    real: facts.real && image(pixels.subarray(size)) };
  if (facts.number === 0) frames.clear();
  const forward = !frames.has(facts.number) && facts.number > 0;
  for (const number of frames.keys()) if (number > facts.number || number < facts.oldest) frames.delete(number);
  frames.set(facts.number, frame);
  if (frames.size > KEPT) frames.delete(frames.keys().next().value);
  if (forward) measure();
  if (!scrubbing) show(frame);
  manage();
};
const image = (rgb) => {
  const made = new ImageData(told.width, told.height);
  for (let i = 0, j = 0; i < rgb.length; i += 3, j += 4) {
    made.data[j] = rgb[i]; made.data[j + 1] = rgb[i + 1]; made.data[j + 2] = rgb[i + 2]; made.data[j + 3] = 255;
  }
  return made;
};
const show = (frame) => {
  for (const name of ["world", "real"]) {
    if (!frame[name]) continue;
    $(name).querySelector("canvas").getContext("2d").putImageData(frame[name], 0, 0);
    $(name).querySelector(".score").replaceChildren(...scoreOf(frame.told[name]));
  }
  $("number").textContent = frame.number;
  document.body.dataset.number = frame.number;
};
const scoreOf = (scene) => {
  const found = [];
  if (scene.score !== null) found.push("score ", element("b", { textContent: +scene.score.toFixed(1) }));
  const gain = scene.reward === null ? 0 : Number(scene.reward.toFixed(1));
  if (gain) found.push(element("span", { className: "gain", textContent: ` ${gain > 0 ? "+" : "−"}${Math.abs(gain)}` }));
  if (scene.ended) found.push(" · ended");
  return found;
};
const cover = (text) => {
  $("over").classList.toggle("away", !text);
  if (text) $("over").firstChild.textContent = text;
};
const manage = () => {
  const touch = matchMedia("(pointer: coarse)").matches, start = touch ? "Touch a button to play" : "Press a key to play";
  const over = `The world has ended: ${touch ? "touch here" : "press Enter"} for a new start`;
  cover(facts.world.ended && !told.anew ? over : facts.fresh ? start : facts.paused && !scrubbing ? "Paused" : "");
  $("pause").textContent = facts.paused || facts.fresh ? "Play" : "Pause";
  $("record").classList.toggle("on", facts.recording);
  $("record").lastChild.textContent = facts.recording ? "Stop" : "Record";
  if (!scrubbing) {
    $("scrub").min = facts.oldest;
    $("scrub").max = Math.max(facts.number, facts.oldest + 1);
    $("scrub").value = facts.number;
  }
  $("rewind").disabled = facts.number <= facts.oldest;
  layBranches();
};

// ---- how fast ----

const milliseconds = (time) => `${time.toFixed(time < 100 ? 1 : 0)} ms`;
const measure = () => {
  times.push(facts.ms);
  if (times.length > TIMES) times.shift();
  const now = performance.now();
  arrivals = [...arrivals.filter((then) => now - then < 2000), now];
  const span = now - arrivals[0];
  $("rate").textContent = span > 500 ? ((arrivals.length - 1) * 1000 / span).toFixed(0) : "–";
  const sorted = [...times].sort((a, b) => a - b), at = (share) => sorted[Math.ceil(share * sorted.length) - 1];
  $("median").textContent = milliseconds(at(0.5));
  $("p95").textContent = milliseconds(at(0.95));
  const budget = 1000 / told.fps, top = 1.15 * Math.max(budget, sorted[sorted.length - 1]);
  const y = (ms) => (96 * (1 - ms / top)).toFixed(1);
  $("line").setAttribute("points", times.map((ms, i) => `${(320 * i / (TIMES - 1)).toFixed(1)},${y(ms)}`).join(" "));
  for (const end of ["y1", "y2"]) $("limit").setAttribute(end, y(budget));
};

// ---- buttons and keys ----

const layKeys = () => {
  const legend = [], cross = element("div", { className: "cross" }), others = element("div", { className: "others" });
  for (const { name, label, keys } of told.buttons) {
    for (const key of keys) buttonOf.set(key, name);
    const caps = keys.map((key) => element("kbd", { textContent: NAMES[key] || key.replace(/^(Key|Digit)/, "") }));
    const row = element("div", {}, element("dt", { textContent: label }), element("dd", {}, ...caps));
    row.dataset.button = name;
    row.classList.toggle("wide", keys.length > 2);
    legend.push(row);
    const button = element("button", { type: "button", textContent: CROSS[name] || label, ariaLabel: label });
    button.className = CROSS[name] ? (name === "up" ? "up" : `${name}-key`) : "";
    button.dataset.button = name;
    button.addEventListener("pointerdown", (event) => { event.preventDefault(); hold(name); again(name); });
    for (const end of ["pointerup", "pointercancel", "pointerleave"]) button.addEventListener(end, () => loose(name));
    (CROSS[name] ? cross : others).append(button);
  }
  cross.classList.toggle("flat", !told.buttons.some(({ name }) => name === "up" || name === "down"));
  $("legend").replaceChildren(...legend);
  $("pad").replaceChildren(...[cross, others].filter((group) => group.children.length));
};
const tell = () => {
  send({ type: "press", buttons: pressed });
  for (const shown of document.querySelectorAll("[data-button]")) {
    shown.classList.toggle("down", pressed.includes(shown.dataset.button));
  }
};
const hold = (name) => { pressed = [...pressed.filter((other) => other !== name), name]; tell(); };
const loose = (name) => {
  clearInterval(repeating);
  if (pressed.includes(name)) { pressed = pressed.filter((other) => other !== name); tell(); }
};
const again = (name) => {  // a world that waits is stepped again while a finger stays
  clearInterval(repeating);
  if (told.waits) repeating = setInterval(() => hold(name), 350);
};
const release = () => { pressed = []; clearInterval(repeating); tell(); };

addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || !told || event.target.matches("input, select, textarea")) return;
  const onButton = event.target.matches("button") && ["Enter", "Space"].includes(event.code);
  if (onButton) return;
  const name = buttonOf.get(event.code), own = PAGE[event.code];
  if (name !== undefined) { event.preventDefault(); if (!event.repeat || told.waits) hold(name); }
  else if (own && !(event.repeat && own !== "step")) { event.preventDefault(); $(own).click(); }
});
addEventListener("keyup", (event) => { const name = buttonOf.get(event.code); if (name !== undefined) loose(name); });
addEventListener("blur", release);
document.addEventListener("visibilitychange", () => {
  if (document.hidden && !facts.paused && !facts.fresh) { release(); send({ type: "pause", on: true }); }
});

// ---- what the page does ----

const act = (id, does) => $(id).addEventListener("click", () => { say(""); does(); $(id).blur(); });
act("pause", () => send({ type: "pause", on: !(facts.paused || facts.fresh) }));
act("step", () => send({ type: "step" }));
act("rewind", () => send({ type: "rewind", to: Math.max(facts.oldest, facts.number - Math.round(told.fps)) }));
act("branch", () => send({ type: "branch", do: "keep" }));
act("record", () => send({ type: "record", on: !facts.recording }));
act("reset", () => send({ type: "reset" }));
$("over").addEventListener("click", () => {
  if (socket.readyState !== WebSocket.OPEN) location.reload();
  else if (facts.world && facts.world.ended && !told.anew) send({ type: "reset" });
  else send({ type: "pause", on: false });
});
$("world").querySelector("canvas").addEventListener("click", () => send({ type: "pause", on: true }));
$("scrub").addEventListener("input", () => {
  if (!scrubbing && !facts.paused) send({ type: "pause", on: true });
  scrubbing = true;
  cover("");
  const frame = frames.get(Number($("scrub").value));
  if (frame) show(frame);
});
$("scrub").addEventListener("change", () => {
  scrubbing = false;
  send({ type: "rewind", to: Number($("scrub").value) });
  $("scrub").blur();
});

const layBranches = () => {
  const there = facts.branches.map((branch) => branch.id);
  for (const id of thumbnails.keys()) if (!there.includes(id)) { thumbnails.get(id).remove(); thumbnails.delete(id); }
  for (const { id, number } of facts.branches) {
    if (thumbnails.has(id)) continue;
    const canvas = element("canvas", { className: "crisp", width: told.width, height: told.height });
    if (frames.has(number)) canvas.getContext("2d").putImageData(frames.get(number).world, 0, 0);
    const go = element("button", { type: "button", className: "go", title: "Come back here" }, canvas, `frame ${number}`);
    const forget = element("button", { type: "button", className: "forget", textContent: "×", title: "Forget" });
    go.addEventListener("click", () => { send({ type: "branch", do: "go", branch: id }); go.blur(); });
    forget.addEventListener("click", () => send({ type: "branch", do: "forget", branch: id }));
    thumbnails.set(id, element("li", {}, go, forget));
    $("branches").append(thumbnails.get(id));
  }
  $("none").hidden = there.length > 0;
};

open();
