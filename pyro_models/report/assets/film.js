"use strict";
// Plays the rows of one picture: the first stays, the row of an epoch appears below it.

for (const film of document.querySelectorAll(".film")) {
  const [strip, canvas, slider, button, output] = ["img", "canvas", "input", "button", "output"]
    .map(name => film.querySelector(name)), epochs = JSON.parse(film.dataset.epochs);
  let timer;
  const draw = () => {
    const height = strip.naturalHeight / (epochs.length + 1), width = strip.naturalWidth, pen = canvas.getContext("2d");
    [canvas.width, canvas.height] = [width, 2 * height];
    [0, slider.valueAsNumber + 1].forEach((row, to) =>
      pen.drawImage(strip, 0, row * height, width, height, 0, to * height, width, height));
    output.value = `epoch ${epochs[slider.valueAsNumber]}`;
  };
  const stop = () => { clearInterval(timer); timer = undefined; button.textContent = "play"; };
  button.onclick = () => {
    if (timer) return stop();
    if (slider.valueAsNumber === epochs.length - 1) slider.value = 0;
    button.textContent = "stop";
    timer = setInterval(() => {
      slider.value = slider.valueAsNumber + 1;
      draw();
      if (slider.valueAsNumber === epochs.length - 1) stop();
    }, 150);
  };
  slider.oninput = draw;
  strip.decode().then(() => { draw(); film.classList.add("ready"); });
}
