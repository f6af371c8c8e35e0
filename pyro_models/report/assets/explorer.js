// Moves a code z over the plane of its two liveliest dimensions, by sliders or to goals, and shows the mean of x there.

const COLOURS = ["1f77b4", "ff7f0e", "2ca02c", "d62728", "9467bd", "8c564b", "e377c2", "7f7f7f", "bcbd22", "17becf"];
const element = id => document.getElementById(id);

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

function likeliest(p, values) {
  const all = p.length === 1 ? [1 - p[0], p[0]] : [...p], best = all.indexOf(Math.max(...all));
  return [`${values[best]} (${(100 * all[best]).toFixed(0)} %)`, { value: all[best] }];
}

function explore({ latent, shape, order, low, high, labels, columns, heads, choices, goal, ...data }) {
  const decode = program(data.program), z = new Float32Array(low.length), given = {}, [across, up = across] = order;
  const [codes, goals] = [data.codes, data.goals].map(unpacked).map(all =>
    Array.from({ length: all.length / z.length }, (_, i) => all.slice(i * z.length, (i + 1) * z.length)));
  const plane = element("plane"), sliders = {};
  const place = (code, d) => (code[d] - low[d]) / (high[d] - low[d]);
  let waiting = false, datum = 0;

  function draw() {
    waiting = false;
    const means = decode({ [latent]: z, ...given });
    for (const d in sliders) [sliders[d][0].value, sliders[d][1].value] = [z[d], z[d].toFixed(2)];
    element("point").setAttribute("cx", place(z, across));
    element("point").setAttribute("cy", 1 - place(z, up));
    if (shape.length === 3) drawImage(element("picture"), shape, means.x);
    const said = heads.map(({ site, name, values }) => [name, ...likeliest(means[site], values)]);
    said.push(...columns.map((name, i) => [name, means.x[i].toFixed(2), { min: -3, max: 3, value: means.x[i] }]));
    element("heads").replaceChildren(...said.map(([name, words, meter]) => make("tr", {}, make("th", {}, name),
      make("td", {}, words), make("td", {}, make("meter", { ...meter, ariaLabel: name })))));
  }

  function go(changes) { // from dimensions to values
    for (const d in changes) z[d] = Math.min(Math.max(changes[d], low[d]), high[d]);
    if (!waiting) requestAnimationFrame(draw);
    waiting = true;
  }

  for (const d of order.slice(0, 10)) {
    const slider = make("input", { type: "range", min: low[d], max: high[d], step: (high[d] - low[d]) / 200 });
    slider.oninput = () => go({ [d]: slider.valueAsNumber });
    sliders[d] = [slider, make("output")];
    element("sliders").append(make("label", {}, `${latent}[${d}]`, ...sliders[d]));
  }

  const selects = choices.map(({ name, values }) =>
    make("select", { ariaLabel: name, onchange: jump }, ...values.map(value => make("option", {}, value))));
  function jump() {
    const chosen = selects.map(select => select.selectedIndex);
    choices.forEach(({ site, values }, i) => { given[site] = Float32Array.from(values, (_, k) => k === chosen[i]); });
    go(goals[choices.reduce((row, { values }, i) => row * values.length + chosen[i], 0)]);
  }
  if (choices.length) element("goals").append(`Go to the mean of ${goal}:`,
    ...selects.map(one => make("label", {}, `${one.ariaLabel} `, one)), make("button", { onclick: jump }, "go"));
  element("goals").append(make("button", { onclick: () => go(codes[datum++ % codes.length]) }, "next test datum"));

  plane.insertAdjacentHTML("afterbegin", codes.map((code, i) => `<circle cx="${place(code, across)}" r="0.008"
    cy="${1 - place(code, up)}" fill="#${COLOURS[(labels?.[i] ?? 7) % 10]}"><title>${labels?.[i] ?? ""}</title></circle>`
  ).join(""));
  const steps = { ArrowLeft: [across, -0.02], ArrowRight: [across, 0.02], ArrowDown: [up, -0.02], ArrowUp: [up, 0.02] };
  plane.onkeydown = event => {
    const [d, step] = steps[event.key] ?? [];
    if (step) event.preventDefault();
    if (step) go({ [d]: z[d] + step * (high[d] - low[d]) });
  };
  plane.onpointerdown = plane.onpointermove = event => {
    if (!event.buttons) return;
    plane.setPointerCapture(event.pointerId);
    const box = plane.getBoundingClientRect(), at = (d, share) => ({ [d]: low[d] + share * (high[d] - low[d]) });
    go({ ...at(across, (event.clientX - box.left) / box.width), ...at(up, (box.bottom - event.clientY) / box.height) });
  };
  plane.style.display = z.length === 1 ? "none" : "";
  element("picture").hidden = shape.length !== 3;
  if (choices.length) jump(); else go(codes[0]);
  draw(); // at once, so that what the page does not know is told
  element("controls").hidden = false;
  return { z, given, go, decode };
}

try {
  window.explorer = explore(JSON.parse(element("data").textContent));
} catch (error) {
  element("said").textContent = `There is no explorer: ${error.message}.`;
}
