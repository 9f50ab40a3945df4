"use strict";
// The page: controls, one card for each step, the inspector of a cell, following a token, and playing forward.
const data = JSON.parse(document.getElementById("data").textContent), word = data.words, [first, second] = data.explanations;
const say = (key, values = {}) => Object.entries(values).reduce((text, [name, value]) => text.replaceAll(`{${name}}`, () => value), word[key] ?? key);
const make = (tag, attributes = {}, ...children) => {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) name === "text" ? element.textContent = value : element.setAttribute(name, value);
  element.append(...children);
  return element;
};
const state = {head: 0, time: 1e9, layers: {}, followed: null, playing: null, current: 0};
const chosen = axis => axis === "head" || axis === "kv_head" || axis === "expert" ? state.head : axis === "token" ? state.time : 0;
const headOf = (step, axis) => {
  const at = step.axes.indexOf(axis);
  if (axis !== "kv_head") return Math.min(state.head, step.index[at].length - 1);
  const most = Math.max(1, data.heads);
  return Math.min(step.index[at].length - 1, Math.floor(state.head * step.index[at].length / most));
};
const timeOf = step => {
  const kept = step.index[step.axes.indexOf("token")], at = kept.indexOf(state.time);
  return at < 0 ? kept.length - 1 : at;
};
const chooser = step => axis => axis === "kv_head" || axis === "head" ? headOf(step, axis) : axis === "token" ? timeOf(step) : chosen(axis);
for (const step of first.steps) if (step.stack && !(step.stack in state.layers) && step.layer !== null) state.layers[step.stack] = step.layer;
const axisOf = axis => word[`axis ${axis}`] ?? axis;
const titleOf = step => {
  const slot = step.block.split("/")[0], block = data.names[`slot ${slot}`] ?? step.block;
  if (step.name === "output" && data.names[`output ${slot}`]) return data.names[`output ${slot}`];
  if (step.name === "output" || step.name === "input") return say(`${step.name} of`, {block});
  return data.names[`${slot} ${step.name}`] ?? data.names[step.name] ?? step.name.replaceAll("_", " ");
};
const isVisible = step => step.layer === null || step.layer === state.layers[step.stack];

// --- cards ---
const cards = [];
const pairOf = step => second && data.pairs[step.number] !== null && data.pairs[step.number] !== undefined ? second.steps[data.pairs[step.number]] : null;
const table = (explanation, step) => {
  const g = grid(step), rows = Math.min(g.rows, 24), columns = Math.min(g.columns, 16), body = make("tbody");
  const head = make("tr", {}, make("td"), ...Array.from({length: columns}, (_, c) => make("th", {scope: "col", text: nameOf(explanation, step, step.axes[g.column], c)})));
  for (let r = 0; r < rows; r++) {
    const cells = Array.from({length: columns}, (_, c) => make("td", {text: number(valueAt(step, placesOf(step, chooser(step), r, c)))}));
    body.append(make("tr", {}, make("th", {scope: "row", text: nameOf(explanation, step, step.axes[g.row], r)}), ...cells));
  }
  return make("table", {}, make("thead", {}, head), body);
};

const mapOf = (explanation, step, name) => {
  const holder = make("div", {class: "map"}), canvas = make("canvas", {tabindex: "0", role: "img", "aria-label": `${titleOf(step)}${name ? `, ${name}` : ""}. ${say("cells")}`});
  const details = make("details", {}, make("summary", {text: say("table")}));
  const own = {explanation, step, canvas, cursor: null, drawn: false, details};
  details.addEventListener("toggle", () => { details.querySelector("div")?.remove(); if (details.open) details.append(make("div", {class: "scroll"}, table(explanation, step))); });
  const inspectAt = cell => { own.cursor = cell; redraw(own); inspect(own); };
  canvas.addEventListener("mousemove", event => {
    const cell = cellAt(canvas, explanation, step, event.offsetX, event.offsetY);
    if (cell && !cell.label) inspectAt(cell);
  });
  canvas.addEventListener("mouseleave", () => { own.cursor = null; redraw(own); });
  canvas.addEventListener("click", event => {
    const cell = cellAt(canvas, explanation, step, event.offsetX, event.offsetY), axis = step.axes[grid(step).row];
    if (!cell) return;
    if (["token", "key"].includes(axis)) follow({text: axis === "key" ? step.keys : step.sequence, index: step.index[grid(step).row][cell.row]}, true);
    if (!cell.label) inspectAt(cell);
  });
  canvas.addEventListener("keydown", event => {
    const by = {ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0]}[event.key], g = grid(step);
    if (!by) return;
    event.preventDefault();
    const at = own.cursor ?? {row: 0, column: -1};
    inspectAt({row: Math.max(0, Math.min(g.rows - 1, at.row + by[0])), column: Math.max(0, Math.min(g.columns - 1, at.column + by[1]))});
  });
  holder.append(...(name ? [make("p", {class: "variant", text: name})] : []), make("div", {class: "scroll"}, canvas), details);
  return [holder, own];
};
// The same grid of every head, small; a click chooses the head.
const thumbnails = step => {
  const row = make("div", {class: "heads"}), owns = step.index[0].map((head, place) => {
    const canvas = make("canvas", {"aria-hidden": "true"}), button = make("button", {type: "button", "data-head": place}, canvas, `${say("head")} ${head}`);
    button.addEventListener("click", () => setHead(place));
    row.append(button);
    return {canvas, step, small: place, details: {open: false}};
  });
  return {row, owns};
};
const setHead = head => {
  state.head = head;
  const input = document.getElementById("head");
  if (input) input.value = String(head);
  refresh();
};
const redraw = own => {
  own.drawn = true;
  if (own.small !== undefined) return drawSmall(own.canvas, own.step, own.small);
  draw(own.canvas, own.explanation, own.step, chooser(own.step), state.followed, own.cursor);
};

const shapeOf = step => step.axes.map((axis, at) => `${axisOf(axis)} ${step.shape[at].toLocaleString()}`).join(" × ");
const leftOut = step => step.axes.filter((_, at) => step.index[at].length < step.shape[at]).map(axis => say("kept", {axis: axisOf(axis), kept: sizeOf(step, axis), all: step.shape[step.axes.indexOf(axis)].toLocaleString()}));

const card = step => {
  const other = pairOf(step), section = make("section", {class: "step", id: `step-${step.number}`, "aria-labelledby": `title-${step.number}`, tabindex: "-1"});
  const title = make("h3", {id: `title-${step.number}`}, titleOf(step), make("span", {class: "where", text: `${step.path} · ${step.block}`}));
  section.append(title, make("p", {text: step.caption}));
  if (step.formula) { const formula = make("div", {class: "formula"}); formula.innerHTML = step.formula; section.append(formula); }
  const g = grid(step), facts = [shapeOf(step), ...(g.row < 0 ? [] : [say("rows and columns", {rows: axisOf(step.axes[g.row]), columns: axisOf(step.axes[g.column])})]), ...leftOut(step)];
  section.append(make("p", {class: "facts", text: facts.join(" · ")}));
  if (step.axes.indexOf("token") >= 0 && step.axes.indexOf("token") < step.axes.length - 2) section.append(make("p", {class: "variant time"}));
  if (step.of.length) {
    const from = make("p", {class: "facts", text: `${say("from")} `});
    step.of.forEach((number, at) => {
      const link = make("a", {href: `#step-${number}`, text: titleOf(first.steps[number])});
      link.addEventListener("click", event => { event.preventDefault(); goTo(number); });
      from.append(...(at ? [", "] : []), link);
    });
    section.append(from);
  }
  const maps = make("div", {class: second ? "maps two" : "maps"}), owns = [];
  const [one, own] = mapOf(first, step, second ? first.name : "");
  maps.append(one); owns.push(own);
  if (second) {
    const difference = data.differences[step.number], badge = difference === null || difference === undefined ? (other ? say("another shape") : say("only in", {name: first.name})) : difference === 0 ? say("same") : say("differs", {share: difference >= 10 ? "> 1,000 %" : `${Number((100 * difference).toPrecision(2))} %`});
    title.append(make("span", {class: `badge ${difference === 0 ? "same" : "differs"}`, text: badge}));
    if (other) { const [two, its] = mapOf(second, other, second.name); maps.append(two); owns.push(its); }
  }
  if (step.name === "weights" && step.axes[0] === "head" && step.index[0].length > 1) { const all = thumbnails(step); section.append(all.row); owns.push(...all.owns); }
  section.append(maps);
  if (step.paper) section.append(make("details", {class: "paper"}, make("summary", {text: say("paper")}), make("p", {text: step.paper})));
  cards.push({step, section, owns});
  return section;
};

const watcher = new IntersectionObserver(entries => {
  for (const entry of entries) if (entry.isIntersecting) cards.find(one => one.section === entry.target)?.owns.forEach(own => { if (!own.drawn) redraw(own); });
}, {rootMargin: "600px"});
// The height of the bar, below which steps and the diagram stand.
const measureBar = () => document.documentElement.style.setProperty("--bar", `${document.querySelector(".bar-of-controls").offsetHeight}px`);
// The sizes of grids before they are drawn, so that nothing moves when they are.
const reserve = owns => owns.map(({canvas, explanation, step, small}) => {
  if (small !== undefined) { const g = grid(step), cell = smallCell(g); return [canvas, g.columns * cell, g.rows * cell]; }
  const at = layoutOf(explanation, step, canvas.parentElement.clientWidth);
  return [canvas, at.width, at.height];
}).forEach(([canvas, width, height]) => { canvas.style.width = `${width}px`; canvas.style.height = `${height}px`; });
// A formula that is wider than its card is drawn smaller, and can be scrolled only where it would become too small to read.
const fitFormulas = shown => {
  const formulas = shown.map(({section}) => section.querySelector(".formula")).filter(Boolean);
  for (const one of formulas) one.style.fontSize = "";
  const shares = formulas.map(one => one.clientWidth / one.scrollWidth);
  formulas.forEach((one, at) => { if (shares[at] < 1) one.style.fontSize = `${Math.max(0.75, 1.1 * shares[at] - 0.01)}rem`; });
};
const refresh = () => {
  measureBar();
  for (const {step, section, owns} of cards) {
    const visible = isVisible(step);
    section.hidden = !visible;
    section.querySelectorAll("[data-head]").forEach(button => button.setAttribute("aria-pressed", String(Number(button.dataset.head) === headOf(step, "head"))));
    const time = section.querySelector(".time");
    if (time) time.textContent = say("after token", {token: nameOf(first, step, "token", timeOf(step))});
    for (const own of owns) {
      own.drawn = false;
      if (own.details.open) { own.details.open = false; own.details.open = true; }
    }
    watcher.unobserve(section);
    if (visible) watcher.observe(section);
  }
  const shown = cards.filter(({step}) => isVisible(step));
  fitFormulas(shown);
  reserve(shown.flatMap(({owns}) => owns));
  document.querySelectorAll("h2[data-stack]").forEach(heading => { heading.textContent = say("layer of", {stack: data.names[heading.dataset.stack] ?? heading.dataset.stack, layer: state.layers[heading.dataset.stack]}); });
};

// --- the inspector ---
const strip = (vector, scale) => {
  const colours = paint(), row = make("span", {class: "strip", "aria-hidden": "true"});
  vector.slice(0, 48).forEach(value => { const cell = make("i"); cell.style.background = colour(value, scale, colours); row.append(cell); });
  return row;
};
const inspector = document.getElementById("inspector"), phone = matchMedia("(max-width: 34rem)");
const inspect = ({explanation, step, cursor}) => {
  const places = placesOf(step, chooser(step), cursor.row, cursor.column), value = valueAt(step, places);
  const where = step.axes.map((axis, at) => `${axisOf(axis)} ${nameOf(explanation, step, axis, places[at])}`).join(", ");
  const lines = [make("p", {}, make("strong", {text: `${titleOf(step)} = ${value === -Infinity ? `−∞ (${say("hidden")})` : number(value)}`}), ` ${where}`)];
  const found = sourcesOf(explanation, step, places).filter(one => one.vector);
  for (const one of found) {
    const label = make("span", {class: "source", text: `${titleOf(one.source)} `});
    if (one.vector.length === 1) lines.push(make("p", {}, label, number(one.vector[0])));
    else lines.push(make("p", {}, label, strip(one.vector, scaleOf(one.source)), make("span", {class: "few", text: ` ${one.vector.slice(0, phone.matches ? 2 : 4).map(number).join("  ")} …`})));
  }
  const [a, b] = found;
  if (found.length === 2 && a.vector.length > 1 && a.vector.length === b.vector.length && a.free === b.free && a.whole && b.whole) {
    const sum = a.vector.reduce((total, one, at) => total + (one === 0 ? 0 : one * b.vector[at]), 0);
    if (Math.abs(sum - value) <= 1e-3 * Math.max(1, Math.abs(value))) lines.push(make("p", {class: "few", text: say("products", {value: number(sum)})}));
  }
  inspector.replaceChildren(...lines);
};

// --- following a token, moving between steps, playing ---
const follow = (token, toggle = false) => {
  const same = toggle && state.followed && token && state.followed.text === token.text && state.followed.index === token.index;
  state.followed = same ? null : token;
  if (state.followed) state.time = state.followed.index;
  document.querySelectorAll(".token").forEach(chip => chip.setAttribute("aria-pressed", String(Boolean(state.followed) && Number(chip.dataset.text) === state.followed.text && Number(chip.dataset.index) === state.followed.index)));
  refresh(); predict();
};
const visibleCards = () => cards.filter(({step, foreign}) => !foreign && isVisible(step));
const calm = matchMedia("(prefers-reduced-motion: reduce)");
const goTo = (number, focus = true) => {
  const step = first.steps[number];
  if (!step) return;
  if (step.layer !== null && state.layers[step.stack] !== step.layer) { setLayer(step.stack, step.layer); }
  document.querySelectorAll(".step.current").forEach(one => one.classList.remove("current"));
  const own = cards.find(one => one.step === step);
  own.section.classList.add("current");
  state.current = number;
  document.getElementById("progress").textContent = say("progress", {at: visibleCards().indexOf(own) + 1, all: visibleCards().length, title: titleOf(step)});
  measureBar();
  own.section.scrollIntoView({block: "start", behavior: calm.matches ? "auto" : "smooth"});
  if (focus) own.section.focus({preventScroll: true});
  highlight(step);
};
const moveBy = by => {
  const all = visibleCards(), at = all.findIndex(({step}) => step.number === state.current), next = all[Math.max(0, at + by)];
  if (!next) return false;
  goTo(next.step.number, false);
  return true;
};
const play = document.getElementById("play");
const stop = () => { clearInterval(state.playing); state.playing = null; play.textContent = `▶ ${say("play")}`; play.setAttribute("aria-pressed", "false"); };
play.addEventListener("click", () => {
  if (state.playing) return stop();
  play.textContent = `⏸ ${say("pause")}`; play.setAttribute("aria-pressed", "true");
  goTo(state.current, false);
  state.playing = setInterval(() => { const before = state.current; if (!moveBy(1) || state.current === before) stop(); }, 2200);
});
document.getElementById("back").addEventListener("click", () => moveBy(-1));
document.getElementById("next").addEventListener("click", () => moveBy(1));
document.addEventListener("keydown", event => {
  if (event.altKey || event.ctrlKey || event.metaKey || /^(SELECT|INPUT|CANVAS)$/.test(event.target.tagName)) return;
  if (event.key === "j") moveBy(1);
  if (event.key === "k") moveBy(-1);
});
