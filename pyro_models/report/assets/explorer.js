// Moves a latent z in a plane, by sliders or to goals, and shows the mean of x there, beside training data like it.

const element = id => document.getElementById(id);
const STEPS = 9; // images in a row
const dot = (a, b) => a.reduce((total, v, i) => total + v * b[i], 0);
const clamp = (v, low, high) => Math.min(Math.max(v, low), high);

function make(tag, properties, ...children) {
  const made = Object.assign(document.createElement(tag), properties);
  made.append(...children);
  return made;
}

function drawImage(canvas, [channels, height, width], x) {
  const area = height * width, image = new ImageData(width, height);
  for (let i = 0; i < area; i++) for (let k = 0; k < 4; k++) // one channel is ink, dark on white
    image.data[4 * i + k] = 255 * (k === 3 ? 1 : channels === 1 ? 1 - x[i] : x[k * area + i]);
  [canvas.width, canvas.height] = [width, height];
  canvas.getContext("2d").putImageData(image, 0, 0);
}

class Sprite { // many images in one, 20 in a row
  constructor(source, [, height, width]) {
    Object.assign(this, { height, width, image: new Image() });
    this.ready = new Promise(done => { this.image.onload = done; });
    this.image.src = source;
  }
  draw(canvas, k) {
    const { height, width } = this;
    [canvas.width, canvas.height] = [width, height];
    canvas.getContext("2d").drawImage(this.image, k % 20 * width, Math.floor(k / 20) * height, width, height,
      0, 0, width, height);
  }
  pixels(k, canvas = new OffscreenCanvas(1, 1)) {
    this.draw(canvas, k);
    return canvas.getContext("2d", { willReadFrequently: true }).getImageData(0, 0, this.width, this.height).data;
  }
}

function likeliest(p, values) {
  const all = p.length === 1 ? [1 - p[0], p[0]] : [...p], best = all.indexOf(Math.max(...all));
  return [`${values[best]} (${(100 * all[best]).toFixed(0)} %)`, { value: all[best] }];
}

function rowsOf(packed, width) {
  const all = unpacked(packed);
  return Array.from({ length: all.length / width }, (_, i) => all.slice(i * width, (i + 1) * width));
}

function explore({ latent, shape, order, low, high, labels, classes, columns, heads, choices, goal, planes, ...data }) {
  const decode = program(data.program), d = low.length, z = new Float32Array(d), given = {}, sliders = {};
  const latents = rowsOf(data.latents, d), goals = rowsOf(data.goals, d), isImage = shape.length === 3;
  const inputs = choices[0]?.inputs && rowsOf(choices[0].inputs, unpacked(choices[0].inputs).length / choices[0].values.length);
  const svg = element("plane"), name = label => classes[label] ?? label;
  let waiting = false, datum = 0, plane, held, later;

  // Where latents lie in the plane: shares of its width and height, from its lower left corner.
  function usePlane(index) {
    plane = planes[index];
    const ends = (plane.axes ?? []).map(axis => [...latents, ...goals].map(code => dot(axis, code)))
      .map(values => [Math.min(...values), Math.max(...values)]);
    plane.low = ends.map(([a, b]) => a - 0.05 * (b - a) - 1e-3);
    plane.width = ends.map(([a, b], k) => b + 0.05 * (b - a) + 1e-3 - plane.low[k]);
    plane.points = plane.positions ? rowsOf(plane.positions, 2) : latents.map(at);
    const colour = i => labels?.[i] == null ? "none" : labels[i] % 10;
    element("dots").innerHTML = plane.points.map(([x, y], i) =>
      `<circle class="c${colour(i)}" cx="${x}" cy="${1 - y}" r="0.008"/>`).join("");
    element("embedding").hidden = Boolean(plane.axes);
    show();
  }
  function at(code) { // an embedding knows test data only: the nearest
    if (plane.axes) return plane.axes.map((axis, k) => (dot(axis, code) - plane.low[k]) / plane.width[k]);
    return plane.points[nearestData(code)[0]];
  }
  function nearestData(code) { // the test data from near to far, by their latents
    const far = latents.map(each => each.reduce((sum, v, k) => sum + (v - code[k]) ** 2, 0));
    return [...far.keys()].sort((a, b) => far[a] - far[b]);
  }
  function nearestDot([x, y]) {
    const distances = plane.points.map(([a, b]) => Math.hypot(a - x, b - y));
    const best = distances.indexOf(Math.min(...distances));
    return { best, distance: distances[best] };
  }
  function nextDot([right, up]) { // the nearest dot in a direction from the point, if there is one
    const [x, y] = at(z), far = plane.points.map(([a, b]) => {
      const along = (a - x) * right + (b - y) * up, across = (a - x) * up - (b - y) * right;
      return along > Math.abs(across) ? Math.hypot(a - x, b - y) : Infinity;
    });
    return Math.min(...far) < Infinity ? far.indexOf(Math.min(...far)) : nearestDot([x, y]).best;
  }
  function towards(shares) { // the latent nearest to z that lies there; of an embedding that of the nearest dot
    if (!plane.axes) return latents[nearestDot(shares).best];
    const moved = Float32Array.from(z), now = at(z);
    plane.axes.forEach((axis, k) =>
      axis.forEach((v, i) => { moved[i] += v * (clamp(shares[k], 0, 1) - now[k]) * plane.width[k]; }));
    return moved;
  }

  const decoded = code => decode({ [latent]: code, ...given });
  function draw() {
    waiting = false;
    const means = decoded(z);
    for (const i in sliders) [sliders[i][0].value, sliders[i][1].value] = [z[i], z[i].toFixed(2)];
    mark("point", z);
    if (held) mark("held", held);
    if (isImage) drawImage(element("picture"), shape, means.x);
    const rows = heads.map(({ site, name, values }) => [name, ...likeliest(means[site], values)]);
    rows.push(...columns.map(({ name, loc, scale }, i) =>
      [name, +(loc + scale * means.x[i]).toPrecision(4), { min: -3, max: 3, value: means.x[i] }]));
    element("heads").replaceChildren(...rows.map(([name, words, meter]) => make("tr", {},
      make("th", { scope: "row" }, name), make("td", {}, words),
      make("td", {}, make("meter", { ...meter, ariaLabel: name })))));
    clearTimeout(later);
    later = setTimeout(settle, 150, means);
  }
  function mark(id, code) {
    if (!planes.length) return;
    const [x, y] = at(code);
    element(id).setAttribute("cx", x);
    element(id).setAttribute("cy", 1 - y);
  }
  function settle(means) { // what takes longer waits until z rests
    const nearest = nearestData(z).slice(0, 5).map(i => labels?.[i]).filter(label => label != null);
    element("where").textContent = `${latent} = (${[...z.slice(0, 4)].map(v => v.toFixed(2)).join(", ")}`
      + `${d > 4 ? ", …" : ""})${nearest.length ? `; labels of the nearest test data: ${nearest.map(name).join(", ")}` : ""}`;
    if (!isImage) return;
    if (element("interpolation").open && held) strip(element("interpolation").querySelector(".strip"), held, z);
    if (element("traversals").open) element("traversals").querySelector(".rows").replaceChildren(...shown.map(traversal));
    if (train) neighbours(means.x);
  }
  function show() { if (!waiting) requestAnimationFrame(draw); waiting = true; }
  function go(changes) { // from dimensions to values
    for (const i in changes) z[i] = clamp(changes[i], low[i], high[i]);
    show();
  }

  // Rows of images, each of which can be chosen.
  function strip(row, from, to) {
    row.replaceChildren(...Array.from({ length: STEPS }, (_, step) => {
      const code = from.map((v, i) => v + (to[i] - v) * step / (STEPS - 1)), means = decoded(code);
      const button = make("button", { onclick: () => go(code), ariaLabel: `go to step ${step + 1} of ${STEPS}` });
      drawImage(button.appendChild(make("canvas", {})), shape, means.x);
      return button;
    }));
    return row;
  }
  function traversal(i) {
    const ends = [low, high].map(bound => Float32Array.from(z, (v, k) => k === i ? bound[k] : v));
    return make("div", {}, make("span", {}, `${latent}[${i}]`), strip(make("div", { className: "strip" }), ...ends));
  }
  const shown = order.slice(0, 16);
  for (const id of ["interpolation", "traversals"]) Object.assign(element(id), { ontoggle: show, hidden: !isImage });
  element("hold").onclick = () => { held = Float32Array.from(z); show(); };

  // Training images like the one that is decoded.
  const images = data.images && new Sprite(data.images, shape), around = data.train && new Sprite(data.train, shape);
  let train;
  around?.ready.then(() => {
    train = Array.from({ length: data.trained }, (_, k) => around.pixels(k));
    element("neighbours").hidden = false;
    show();
  });
  function neighbours(x) {
    const [channels, height, width] = shape, area = height * width, far = (bytes, k) => {
      let sum = 0;
      for (let c = 0; c < channels; c++) for (let i = 0; i < area; i++)
        sum += (bytes[4 * i + c] / 255 - (channels === 1 ? 1 - x[i] : x[c * area + i])) ** 2;
      return [sum, k];
    };
    const nearest = train.map(far).sort((a, b) => a[0] - b[0]).slice(0, 5);
    element("neighbours").firstElementChild.replaceChildren(...nearest.map(([, k]) => {
      const canvas = make("canvas", { role: "img", ariaLabel: `training image ${k}` });
      around.draw(canvas, k);
      return canvas;
    }));
  }

  for (const i of order.slice(0, 10)) {
    const slider = make("input", { type: "range", min: low[i], max: high[i], step: (high[i] - low[i]) / 200 });
    slider.oninput = () => go({ [i]: slider.valueAsNumber });
    sliders[i] = [slider, make("output")];
    element("sliders").append(make("label", {}, `${latent}[${i}]`, ...sliders[i]));
  }

  const selects = choices.map(({ name, values }) =>
    make("select", { ariaLabel: name, onchange: jump }, ...values.map(value => make("option", {}, value))));
  function jump() {
    const chosen = selects.map(select => select.selectedIndex);
    choices.forEach(({ site, values }, i) => {
      given[site] = inputs ? inputs[chosen[i]] : Float32Array.from(values, (_, k) => k === chosen[i]);
    });
    go(goals[choices.reduce((row, { values }, i) => row * values.length + chosen[i], 0)]);
  }
  if (choices.length) element("goals").append(`Go to the mean of ${goal}:`,
    ...selects.map(select => make("label", {}, `${select.ariaLabel} `, select)), make("button", { onclick: jump }, "go"));
  element("goals").append(make("button", { onclick: () => go(latents[datum++ % latents.length]) }, "next test datum"));

  // The plane: a dot is started from, anything else is dragged to, and the image of a dot shows where the pointer is.
  const steps = { ArrowLeft: [-0.02, 0], ArrowRight: [0.02, 0], ArrowDown: [0, -0.02], ArrowUp: [0, 0.02] };
  svg.onkeydown = event => {
    const step = steps[event.key];
    if (step || event.key === "Enter") event.preventDefault();
    if (step) go(plane.axes ? towards(at(z).map((share, k) => share + step[k])) : latents[nextDot(step)]);
    if (event.key === "Enter") go(latents[nearestDot(at(z)).best]);
  };
  const hover = element("hover");
  svg.onpointerdown = svg.onpointermove = event => {
    const box = svg.getBoundingClientRect();
    const shares = [(event.clientX - box.left) / box.width, (box.bottom - event.clientY) / box.height];
    const { best, distance } = nearestDot(shares), near = distance * box.width < 9;
    hover.hidden = !near || event.buttons > 0 || !images && !labels;
    if (!hover.hidden) {
      if (images) images.draw(hover.firstElementChild, best);
      hover.firstElementChild.hidden = !images;
      hover.lastElementChild.textContent = labels?.[best] == null ? "" : name(labels[best]);
      Object.assign(hover.style, { left: `${clamp(100 * shares[0] + 3, 0, 78)}%`, top: `${clamp(100 - 100 * shares[1], 0, 70)}%` });
    }
    if (!event.buttons) return;
    svg.setPointerCapture(event.pointerId);
    go(event.type === "pointerdown" && near ? latents[best] : towards(shares));
  };
  svg.onpointerleave = () => { hover.hidden = true; };

  if (planes.length) {
    element("planes").append(...planes.map(({ name }) => make("option", {}, name)));
    element("planes").onchange = () => usePlane(element("planes").selectedIndex);
    element("choose-plane").hidden = planes.length === 1;
  }
  element("map").hidden = element("legend").hidden = !planes.length;
  element("choose-plane").hidden ||= !planes.length;
  const present = [...new Set(labels ?? [])].filter(label => label != null).sort((a, b) => a - b);
  element("legend").append(...present.slice(0, 30).map(label =>
    make("li", {}, make("span", { className: `c${label % 10}` }), `${name(label)}`)));
  element("picture").hidden = !isImage;
  if (choices.length) jump(); else go(latents[0]);
  if (planes.length) usePlane(0);
  draw(); // at once, so that an operation that the page does not know is named
  element("controls").hidden = false;
  return { z, given, go, decode };
}

try {
  window.explorer = explore(JSON.parse(element("data").textContent));
} catch (error) {
  element("said").textContent = `There is no explorer: ${error.message}.`;
}
