"use strict";
// Numbers of a step, their colours, and drawing them as a grid of cells.
const NARROW = 4, WIDE = 26, LOW = 13, HIGH = 22, ROOM = 104, SLANTED = 62, LEANS = 34, APART = 12;
// A token as people read it; one that the tokenizer does not know is called "id N".
const shown = text => text.replace(/^id (\d+)$/, "#$1").replaceAll("\n", "⏎").replaceAll("\t", "⇥").replaceAll(" ", "␣")
  .replace(/[\u0000-\u001f\u007f-\u009f]/g, one => `\\x${one.charCodeAt(0).toString(16).padStart(2, "0")}`) || "∅";
const number = value => value === -Infinity ? "−∞" : Number.isNaN(value) ? "NaN"
  : (Math.abs(value) >= 1e5 || (value !== 0 && Math.abs(value) < 1e-4) ? value.toExponential(3) : String(Number(value.toPrecision(5)))).replace("-", "−");

const numbersOf = step => {
  if (!step.numbers) {
    const bytes = Uint8Array.from(atob(step.data), letter => letter.charCodeAt(0));
    step.numbers = new Float32Array(bytes.buffer);
    delete step.data;
  }
  return step.numbers;
};

const valueAt = (step, places) => {
  let at = 0;
  step.index.forEach((kept, axis) => { at = at * kept.length + places[axis]; });
  return numbersOf(step)[at];
};

const sizeOf = (step, axis) => step.index[step.axes.indexOf(axis)].length;

// A kept place of an axis as people read it: the token, or the number of the head or channel.
const nameOf = (explanation, step, axis, place) => {
  if (axis === undefined) return "";
  const at = step.axes.indexOf(axis), index = step.index[at][place];
  if (axis === "token" || axis === "key") {
    const token = explanation.texts[axis === "key" ? step.keys : step.sequence][index];
    return token ? shown(token.text) : String(index);
  }
  if (axis === "row" && step.rows.length) {
    const [token, expert] = step.rows[place], read = explanation.texts[step.sequence][token];
    return `${read ? shown(read.text) : token} → ${expert}`;
  }
  if (axis === "vocabulary") return shown(explanation.vocabulary[index] ?? String(index));
  return String(index);
};

// Rows and columns are the last two axes; those before are chosen elsewhere.
const grid = step => {
  const count = step.axes.length, one = count === 1;
  return {row: one ? -1 : count - 2, column: count - 1, rows: one ? 1 : step.index[count - 2].length, columns: step.index[count - 1].length};
};

const placesOf = (step, chosen, row, column) => {
  const g = grid(step), places = step.axes.map((axis, at) => Math.min(chosen(axis), step.index[at].length - 1));
  if (g.row >= 0) places[g.row] = row;
  places[g.column] = column;
  return places;
};

const scaleOf = step => {
  if (step.scale === undefined) {
    let most = 0, least = 0;
    for (const value of numbersOf(step)) if (Number.isFinite(value)) { most = Math.max(most, value); least = Math.min(least, value); }
    step.scale = {most: Math.max(most, -least) || 1, shares: least >= 0 && most <= 1.0001 && ["weights", "probabilities", "scores"].includes(step.name)};
  }
  return step.scale;
};

const paint = () => {
  const of = getComputedStyle(document.documentElement), rgb = name => of.getPropertyValue(name).trim().match(/[\da-f]{2}/gi).map(part => parseInt(part, 16));
  return {zero: rgb("--zero"), plus: rgb("--plus"), minus: rgb("--minus"), text: of.getPropertyValue("--text"), quiet: of.getPropertyValue("--quiet"), hidden: of.getPropertyValue("--hidden"), mark: of.getPropertyValue("--mark")};
};

const colour = (value, scale, colours) => {
  if (!Number.isFinite(value)) return colours.hidden;
  const size = Math.min(1, Math.abs(value) / (scale.shares ? 1 : scale.most)), strength = Math.sqrt(size);
  const end = value < 0 ? colours.minus : colours.plus;
  return `rgb(${colours.zero.map((zero, part) => Math.round(zero + (end[part] - zero) * strength)).join(" ")})`;
};

// A name in at most this many pixels, cut at its end: Chinese characters are twice as wide as Latin letters.
const ruler = document.createElement("canvas").getContext("2d");
ruler.font = "bold 12px system-ui, sans-serif";
const widthOf = text => ruler.measureText(text).width;
const fitting = (text, most) => {
  if (widthOf(text) <= most) return text;
  const letters = [...text];
  while (letters.length > 1 && widthOf(`${letters.join("")}…`) > most) letters.pop();
  return `${letters.join("")}…`;
};

const layoutOf = (explanation, step, width) => {
  const g = grid(step), words = ["token", "key", "vocabulary"].includes(step.axes[g.column]);
  let longest = g.row < 0 ? 0 : 16;
  for (let row = 0; row < g.rows; row++) longest = Math.max(longest, widthOf(nameOf(explanation, step, step.axes[g.row], row)));
  const label = 14 + Math.ceil(Math.min(ROOM, longest)), right = words ? LEANS : 4, room = Math.max(60, width - label - right);
  const cell = Math.max(NARROW, Math.min(WIDE, Math.floor(room / g.columns)));
  const line = Math.max(LOW, Math.min(HIGH, Math.floor(420 / g.rows)));
  return {...g, label, cell, line, top: words ? 58 : 14, words, width: label + g.columns * cell + right, height: (words ? 58 : 14) + g.rows * line + 2};
};

const smallCell = g => Math.max(1, Math.min(8, Math.floor(96 / Math.max(g.rows, g.columns))));

// The places of an axis before which tokens are left out.
const gapsOf = (step, axis) => !["token", "key"].includes(step.axes[axis]) ? []
  : step.index[axis].flatMap((one, place, all) => place > 0 && one > all[place - 1] + 1 ? [place] : []);

const draw = (canvas, explanation, step, chosen, followed, cursor) => {
  const at = layoutOf(explanation, step, canvas.parentElement.clientWidth), ratio = window.devicePixelRatio || 1;
  canvas.width = at.width * ratio; canvas.height = at.height * ratio;
  canvas.style.width = `${at.width}px`; canvas.style.height = `${at.height}px`;
  const pen = canvas.getContext("2d"), colours = paint(), scale = scaleOf(step);
  pen.scale(ratio, ratio);
  pen.font = "12px system-ui, sans-serif";
  const gap = at.cell > 8 ? 1 : 0;
  for (let row = 0; row < at.rows; row++) {
    for (let column = 0; column < at.columns; column++) {
      pen.fillStyle = colour(valueAt(step, placesOf(step, chosen, row, column)), scale, colours);
      pen.fillRect(at.label + column * at.cell, at.top + row * at.line, at.cell - gap, at.line - 1);
    }
  }
  pen.fillStyle = colours.text;
  for (const row of gapsOf(step, at.row)) pen.fillRect(4, at.top + row * at.line - 2, at.label - 4 + at.columns * at.cell, 2);
  for (const column of gapsOf(step, at.column)) pen.fillRect(at.label + column * at.cell - 2, at.top, 2, at.rows * at.line);
  if (step.name === "chosen" || step.name === "rows") {  // numbers of experts and tokens, not amounts
    pen.textAlign = "center"; pen.textBaseline = "middle";
    for (let row = 0; row < at.rows; row++) for (let column = 0; column < at.columns; column++) {
      const value = valueAt(step, placesOf(step, chosen, row, column));
      pen.fillStyle = value > scale.most / 3 ? `rgb(${colours.zero.join(" ")})` : colours.text;
      pen.fillText(String(value), at.label + (column + 0.5) * at.cell, at.top + (row + 0.5) * at.line);
    }
  }
  const isFollowed = (axis, place) => followed && ["token", "key"].includes(axis) && followed.text === (axis === "key" ? step.keys : step.sequence)
    && step.index[step.axes.indexOf(axis)][place] === followed.index;
  pen.textAlign = "right"; pen.textBaseline = "middle";
  const rowAxis = step.axes[at.row];
  for (let row = 0; row < at.rows; row++) {
    const mine = isFollowed(rowAxis, row);
    pen.fillStyle = mine ? colours.mark : colours.text;
    pen.font = `${mine ? "bold " : ""}12px system-ui, sans-serif`;
    const name = nameOf(explanation, step, rowAxis, row);
    if (at.line >= 12 || row % 2 === 0) pen.fillText(fitting(name, ROOM), at.label - 6, at.top + row * at.line + at.line / 2);
    if (mine) { pen.strokeStyle = colours.mark; pen.lineWidth = 2; pen.strokeRect(at.label - 1, at.top + row * at.line - 1, at.columns * at.cell + 1, at.line + 1); }
  }
  pen.textAlign = "left";
  for (let column = 0; column < at.columns && at.column >= 0; column++) {
    const axis = step.axes[at.column], mine = isFollowed(axis, column);
    pen.fillStyle = mine ? colours.mark : colours.quiet;
    pen.font = `${mine ? "bold " : ""}${at.words ? 12 : 10}px system-ui, sans-serif`;
    if (at.words && column % Math.ceil(APART / at.cell) === 0) {
      pen.save(); pen.translate(at.label + column * at.cell + at.cell / 2, at.top - 5); pen.rotate(-Math.PI / 3.2);
      const name = nameOf(explanation, step, axis, column);
      pen.fillText(fitting(name, SLANTED), 0, 0); pen.restore();
    } else if (!at.words && at.cell >= 20) {
      pen.textAlign = "center";
      pen.fillText(String(step.index[at.column][column]), at.label + (column + 0.5) * at.cell, 6);
    } else if (!at.words && (column === 0 || column === at.columns - 1)) {
      pen.textAlign = column ? "right" : "left";
      pen.fillText(String(step.index[at.column][column]), at.label + (column ? (column + 1) * at.cell : 0), 6);
    }
    if (mine) { pen.strokeStyle = colours.mark; pen.lineWidth = 2; pen.strokeRect(at.label + column * at.cell - 1, at.top - 1, at.cell + 1, at.rows * at.line + 1); }
  }
  if (cursor) {
    pen.strokeStyle = colours.text; pen.lineWidth = 2;
    pen.strokeRect(at.label + cursor.column * at.cell, at.top + cursor.row * at.line, Math.max(at.cell - gap, 3), at.line - 1);
  }
};

// One head without labels, a few pixels for each cell.
const drawSmall = (canvas, step, head) => {
  const g = grid(step), size = smallCell(g), colours = paint(), scale = scaleOf(step);
  canvas.width = g.columns * size; canvas.height = g.rows * size;
  const pen = canvas.getContext("2d");
  for (let row = 0; row < g.rows; row++) for (let column = 0; column < g.columns; column++) {
    pen.fillStyle = colour(valueAt(step, [head, row, column]), scale, colours);
    pen.fillRect(column * size, row * size, size, size);
  }
};

const cellAt = (canvas, explanation, step, x, y) => {
  const at = layoutOf(explanation, step, canvas.parentElement.clientWidth);
  const row = Math.floor((y - at.top) / at.line), column = Math.floor((x - at.label) / at.cell);
  if (row < 0 || row >= at.rows) return null;
  return {row, column: Math.min(column, at.columns - 1), label: column < 0};
};

// What a cell was computed from: for each source the number at the same place, or the vector over its one other axis.
// Of a block that does not say how it computes its output, only an activation's is known to come from the same place.
const sourcesOf = (explanation, step, places) => {
  if (!step.declared && !step.block.startsWith("activation/")) return [];
  const normalised = ["weights", "probabilities"].includes(step.name) ? step.axes[step.axes.length - 1] : null;  // over a whole row
  const full = axis => {
    const at = step.axes.indexOf(axis);
    return at < 0 || axis === normalised ? undefined : step.index[at][places[at]];
  };
  return step.of.map(number => explanation.steps[number]).map(source => {
    const free = [], fixed = source.axes.map((axis, at) => {
      let index = full(axis);
      if (index === undefined && axis === "kv_head" && full("head") !== undefined) {
        const heads = step.shape[step.axes.indexOf("head")];
        index = Math.floor(full("head") * source.shape[at] / heads);
      }
      if (index === undefined && axis === "token" && full("key") !== undefined && !step.axes.includes("token")) index = full("key");
      if (index === undefined) { free.push(at); return null; }
      return source.index[at].indexOf(index);
    });
    if (fixed.includes(-1) || free.length > 1) return {source, vector: null};
    if (!free.length) return {source, vector: [valueAt(source, fixed)], whole: true, fixed};
    const vector = source.index[free[0]].map((_, place) => valueAt(source, fixed.map((one, at) => at === free[0] ? place : one)));
    return {source, vector, free: source.axes[free[0]], whole: vector.length === source.shape[free[0]], fixed};
  });
};
