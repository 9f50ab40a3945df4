"use strict";
// What the page begins with: tokens, selectors, all cards, predictions, the cache, and the diagram's boxes.
const setLayer = (stack, layer) => {
  state.layers[stack] = layer;
  const input = document.querySelector(`select[data-stack="${stack}"]`);
  if (input) input.value = String(layer);
  refresh();
};
const selector = (label, options, change) => {
  const input = make("select", {}, ...options.map(([value, text]) => make("option", {value, text})));
  input.addEventListener("change", () => change(Number(input.value)));
  return [make("label", {}, `${label} `, input), input];
};

const controls = document.getElementById("selectors");
for (const stack of Object.keys(state.layers)) {
  const layers = [...new Set(first.steps.filter(step => step.stack === stack && step.layer !== null).map(step => step.layer))];
  const [label, input] = selector(say("layer selector", {stack: data.names[stack] ?? stack}), layers.map(layer => [layer, layer]), layer => setLayer(stack, layer));
  input.dataset.stack = stack;
  controls.append(label);
}
if (data.heads > 1) {
  const [label, input] = selector(say("head"), Array.from({length: data.heads}, (_, head) => [head, head]), setHead);
  input.id = "head";
  controls.append(label);
}

const tokens = document.getElementById("tokens");
first.texts.forEach((text, which) => {
  const row = make("p", {class: "row"}, make("span", {class: "quiet", text: say(first.texts.length > 1 ? (which ? "target" : "source") : "text")}));
  const kept = new Set(first.steps.flatMap(step => step.axes.flatMap((axis, at) => (axis === "token" && step.sequence === which) || (axis === "key" && step.keys === which) ? step.index[at] : [])));
  text.forEach((token, index) => {
    const chip = make("button", {class: "token", type: "button", "aria-pressed": "false", "data-text": which, "data-index": index, title: say("follow")}, shown(token.text), make("small", {text: token.id}));
    chip.addEventListener("click", () => follow({text: which, index}, true));
    if (!kept.has(index)) Object.assign(chip, {disabled: true, title: say("left out")});
    row.append(chip);
  });
  tokens.append(row);
});

const steps = document.getElementById("steps");
let group = null;
for (const step of first.steps) {
  const here = step.layer !== null ? step.stack : step.path.split(".")[0];
  if (here !== group && !(step.layer !== null && steps.querySelector(`h2[data-stack="${step.stack}"]`))) {
    const heading = make("h2", step.layer !== null ? {"data-stack": step.stack} : {}, step.layer !== null ? "" : data.names[step.path.split(".")[0]] ?? here);
    steps.append(heading);
  }
  group = here;
  steps.append(card(step));
}

// Of a comparison: the steps that only the second model has, each after the one before it.
let before = null;
for (const step of second ? second.steps : []) {
  const partner = data.pairs.indexOf(step.number);
  if (partner >= 0) { before = document.getElementById(`step-${partner}`); continue; }
  const [map, own] = mapOf(second, step, second.name), section = make("section", {class: "step"}, make("h3", {}, titleOf(step), make("span", {class: "where", text: `${step.path} · ${step.block}`}), make("span", {class: "badge differs", text: say("only in", {name: second.name})})), make("p", {text: step.caption}), map);
  before ? before.after(section) : steps.append(section);
  before = section;
  cards.push({step, section, owns: [own], foreign: true});
}

// --- predictions and cache ---
const predict = () => {
  const place = document.getElementById("predictions");
  if (!first.predictions.length) { place.hidden = true; return; }
  const last = first.texts.length - 1, followed = state.followed && state.followed.text === last ? state.followed.index : first.texts[last].length - 1;
  const rows = [first, ...(second ? [second] : [])].map(explanation => {
    const found = explanation.predictions.find(one => one.at === followed) ?? explanation.predictions[explanation.predictions.length - 1];
    const bars = found.best.map(([text, id, share]) => make("li", {}, make("span", {class: "name", text: shown(text)}), make("span", {class: "bar"}, Object.assign(make("i"), {style: `width: ${100 * share}%`})), make("span", {class: "share", text: share < 1e-4 ? "< 0.01 %" : `${(100 * share).toPrecision(3)} %`}), make("small", {text: id})));
    const after = shown(explanation.texts[last][found.at].text);
    return make("div", {}, make("p", {text: `${second ? `${explanation.name}: ` : ""}${say(first.kind === "encoder_only" ? "predicted at" : "predicted after", {token: after})}`}), make("ol", {class: "bars"}, ...bars));
  });
  document.getElementById("predicted").replaceChildren(...rows);
};
const cache = document.getElementById("cache");
if (first.cache.length) {
  const head = make("tr", {}, ...["cache layer", "cache state", "cache tokens", "cache before", "cache after"].map(key => make("th", {scope: "col", text: say(key)})));
  const rows = first.cache.map(one => make("tr", {}, ...[one.layer, `${one.state} (${one.kind})`, one.tokens ?? say("fixed"), one.before.toLocaleString(), one.after.toLocaleString()].map(text => make("td", {text}))));
  cache.append(make("p", {text: say("cache text", {token: first.written ? shown(first.written.text) : ""})}), make("div", {class: "scroll"}, make("table", {}, make("thead", {}, head), make("tbody", {}, ...rows))));
} else document.getElementById("kept").hidden = true;

// --- the diagram ---
const drawing = document.querySelector("#drawing svg"), labels = drawing ? [...drawing.querySelectorAll("text")] : [];
const boxOf = step => {
  // From the block itself to those around it: a residual is shown at its sublayer, a router at its feed-forward.
  const parts = step.path.split("."), around = [...parts].reverse().map(part => part.replace(/_residual$/, "")), [, type] = step.block.split("/");
  const names = [step.path, parts.slice(-2).join("."), ...around];
  let found = labels.filter(label => names.slice(0, 3).some(name => label.textContent === `${name}: ${type}`));
  for (const name of names) if (!found.length) found = labels.filter(label => label.textContent.startsWith(`${name}:`));
  if (!found.length) return null;
  const columns = first.texts.length > 1 && step.stack ? found.filter(label => (Number(label.getAttribute("x")) > drawing.viewBox.baseVal.width / 2) === (step.sequence > 0)) : found;
  const options = columns.length ? columns : found, frames = labels.filter(label => /^layers? \d/.test(label.textContent));
  const holds = frame => frame.textContent.replace(/^layers? /, "").split(",").some(part => { const [from, to] = part.split("-").map(Number); return step.layer >= from && step.layer <= (to ?? from); });
  const mine = options.filter(label => { const above = frames.filter(frame => Number(frame.getAttribute("y")) < Number(label.getAttribute("y")) && Math.abs(Number(frame.getAttribute("x")) - Number(label.getAttribute("x"))) < 120).pop(); return step.layer === null || !above || holds(above); });
  const label = mine[0] ?? options[0], y = Number(label.getAttribute("y")), x = Number(label.getAttribute("x"));
  return [...drawing.querySelectorAll("rect.box")].find(box => { const of = name => Number(box.getAttribute(name)); return of("x") <= x && x <= of("x") + of("width") && of("y") <= y && y <= of("y") + of("height"); }) ?? null;
};
const highlight = step => {
  if (!drawing) return;
  drawing.querySelectorAll(".here").forEach(box => box.classList.remove("here"));
  const box = boxOf(step), frame = document.getElementById("drawing");
  if (!box) return;
  box.classList.add("here");
  const top = Number(box.getAttribute("y")) * drawing.clientHeight / drawing.viewBox.baseVal.height;
  frame.scrollTo({top: top - frame.clientHeight / 3, behavior: calm.matches ? "auto" : "smooth"});
};
if (drawing) {
  for (const step of first.steps) {
    const box = boxOf(step);
    if (!box || box.dataset.step !== undefined) continue;
    box.dataset.step = step.number;
    box.addEventListener("click", () => goTo(Number(box.dataset.step)));
  }
}
document.querySelectorAll("[data-word]").forEach(element => { element.textContent = say(element.dataset.word); });
play.textContent = `▶ ${say("play")}`;
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", refresh);
let wide = innerWidth;
addEventListener("resize", () => { if (innerWidth !== wide) { wide = innerWidth; refresh(); } });
refresh(); predict();
document.documentElement.dataset.ready = "yes";
