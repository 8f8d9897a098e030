// A film on a canvas: 16-bit windowing through a lookup table, zoom, pan, invert, and a heat map above it.

const GRAYS = 65536;
const ZOOM = { least: 0.5, most: 20 };
const WINDOW = { narrowest: 0.01, widest: 2 };
const START = { center: 0.5, width: 1, zoom: 1, x: 0, y: 0, inverted: false };

const clamp = (value, low, high) => Math.min(Math.max(value, low), high);

/** Shows one film.  `onchange` is called with the state of the view after each change of it. */
export class Viewer {
  #canvas;
  #onchange;
  #film = null; // { pixels, rows, columns, content }
  #gray = document.createElement("canvas"); // the film through the window
  #heat = null; // the coloured map
  #heatBox = null;
  #isGrayOld = true;
  #frame = 0;
  #pointers = new Map();
  view = { ...START };
  tool = "window";
  isHeatShown = false;
  opacity = 0.6;

  constructor(canvas, onchange) {
    this.#canvas = canvas;
    this.#onchange = onchange;
    new ResizeObserver(() => this.#draw()).observe(canvas);
    this.#followScreen();
    canvas.addEventListener("wheel", (event) => this.#wheel(event), { passive: false });
    canvas.addEventListener("pointerdown", (event) => this.#press(event));
    canvas.addEventListener("pointermove", (event) => this.#move(event));
    for (const name of ["pointerup", "pointercancel"]) {
      canvas.addEventListener(name, (event) => this.#pointers.delete(event.pointerId));
    }
    canvas.addEventListener("contextmenu", (event) => event.preventDefault());
  }

  /** Show a film: 16-bit gray values row by row, and its content box as shares top, bottom, left, right. */
  setFilm(film) {
    this.#film = film;
    this.#gray.width = film.columns;
    this.#gray.height = film.rows;
    this.#isGrayOld = true;
    this.#changed();
  }

  /** Lay a picture of the heat over the film, or over its part inside one-gray borders, which is what was classified. */
  setHeat(picture, isTrimmed) {
    this.#heat = picture;
    this.#heatBox = isTrimmed ? this.#film.content : [0, 1, 0, 1];
    this.#changed();
  }

  change(changes) {
    if (!this.#film) return;
    Object.assign(this.view, changes);
    const view = this.view;
    view.width = clamp(view.width, WINDOW.narrowest, WINDOW.widest);
    view.center = clamp(view.center, 0, 1);
    if ("width" in changes || "center" in changes || "inverted" in changes) this.#isGrayOld = true;
    this.#changed();
  }

  reset() {
    this.change({ ...START });
  }

  redraw() {
    this.#changed();
  }

  pan(dx, dy) {
    const { columns, rows } = this.#film ?? { columns: 0, rows: 0 };
    const scale = this.#fit() * this.view.zoom;
    const most = (side, length) => (side * scale) / 2 + length / 2 - 40; // a piece of the film stays in sight
    const { clientWidth, clientHeight } = this.#canvas;
    const [right, down] = [most(columns, clientWidth), most(rows, clientHeight)];
    this.change({ x: clamp(this.view.x + dx, -right, right), y: clamp(this.view.y + dy, -down, down) });
  }

  /** Zoom by a factor; the place at (x, y), in CSS pixels from the canvas's middle, stays where it is. */
  zoomAt(factor, x = 0, y = 0) {
    const zoom = clamp(this.view.zoom * factor, ZOOM.least, ZOOM.most);
    const done = zoom / this.view.zoom;
    this.view.zoom = zoom;
    this.pan((x - this.view.x) * (1 - done), (y - this.view.y) * (1 - done));
  }

  #changed() {
    this.#onchange(this.view);
    this.#frame ||= requestAnimationFrame(() => {
      this.#frame = 0;
      this.#draw();
    });
  }

  /** Draw anew when the window goes to a screen with other pixels. */
  #followScreen() {
    const same = matchMedia(`(resolution: ${devicePixelRatio}dppx)`);
    same.addEventListener("change", () => (this.#draw(), this.#followScreen()), { once: true });
  }

  /** Screen pixels of one pixel of the film when all of it is shown. */
  #fit() {
    const { clientWidth, clientHeight } = this.#canvas;
    return this.#film ? Math.min(clientWidth / this.#film.columns, clientHeight / this.#film.rows) : 1;
  }

  #draw() {
    const canvas = this.#canvas;
    const ratio = devicePixelRatio;
    canvas.width = Math.round(canvas.clientWidth * ratio);
    canvas.height = Math.round(canvas.clientHeight * ratio);
    if (!this.#film) return;
    if (this.#isGrayOld) this.#window();
    const { rows, columns } = this.#film;
    const scale = this.#fit() * this.view.zoom * ratio;
    const left = canvas.width / 2 + this.view.x * ratio - (columns * scale) / 2;
    const top = canvas.height / 2 + this.view.y * ratio - (rows * scale) / 2;
    const context = canvas.getContext("2d");
    context.imageSmoothingEnabled = true;
    context.imageSmoothingQuality = "high";
    context.drawImage(this.#gray, left, top, columns * scale, rows * scale);
    if (!this.#heat || !this.isHeatShown) return;
    const [from, to, start, end] = this.#heatBox;
    context.globalAlpha = this.opacity;
    context.drawImage(
      this.#heat,
      left + start * columns * scale,
      top + from * rows * scale,
      (end - start) * columns * scale,
      (to - from) * rows * scale,
    );
    context.globalAlpha = 1;
  }

  /** Put the film through the window: one look into a table for each pixel. */
  #window() {
    const { center, width, inverted } = this.view;
    const table = new Uint32Array(GRAYS);
    for (let gray = 0; gray < GRAYS; gray++) {
      const shown = Math.round(255 * clamp((gray / (GRAYS - 1) - center) / width + 0.5, 0, 1));
      table[gray] = (255 << 24) | ((inverted ? 255 - shown : shown) * 0x010101);
    }
    const { pixels, rows, columns } = this.#film;
    const image = new ImageData(columns, rows);
    const colors = new Uint32Array(image.data.buffer);
    for (let index = 0; index < colors.length; index++) colors[index] = table[pixels[index]];
    this.#gray.getContext("2d").putImageData(image, 0, 0);
    this.#isGrayOld = false;
  }

  #fromMiddle(event) {
    const box = this.#canvas.getBoundingClientRect();
    return [event.clientX - box.left - box.width / 2, event.clientY - box.top - box.height / 2];
  }

  #wheel(event) {
    if (!this.#film) return;
    event.preventDefault();
    // A pinch on a touchpad comes as a wheel with ctrl, in small steps.
    const step = event.deltaY * (event.deltaMode === 1 ? 20 : 1) * (event.ctrlKey ? 0.01 : 0.0015);
    this.zoomAt(Math.exp(-clamp(step, -0.5, 0.5)), ...this.#fromMiddle(event));
  }

  #press(event) {
    if (!this.#film) return;
    event.preventDefault(); // no autoscroll by the middle button
    this.#canvas.focus({ preventScroll: true });
    this.#canvas.setPointerCapture(event.pointerId);
    const isPanning = this.tool === "pan" || event.button === 1 || event.button === 2 || event.shiftKey;
    this.#pointers.set(event.pointerId, { x: event.clientX, y: event.clientY, isPanning });
  }

  #move(event) {
    const pointer = this.#pointers.get(event.pointerId);
    if (!pointer) return;
    const [dx, dy] = [event.clientX - pointer.x, event.clientY - pointer.y];
    const other = [...this.#pointers.entries()].find(([id]) => id !== event.pointerId)?.[1];
    if (other) {
      const distance = (point) => Math.hypot(point.x - other.x, point.y - other.y) || 1;
      const moved = { x: event.clientX, y: event.clientY };
      const middle = { clientX: (moved.x + other.x) / 2, clientY: (moved.y + other.y) / 2 };
      this.zoomAt(distance(moved) / distance(pointer), ...this.#fromMiddle(middle));
      this.pan(dx / 2, dy / 2);
    } else if (pointer.isPanning) {
      this.pan(dx, dy);
    } else {
      const { clientWidth, clientHeight } = this.#canvas;
      this.change({ width: this.view.width + dx / clientWidth, center: this.view.center + dy / clientHeight });
    }
    pointer.x = event.clientX;
    pointer.y = event.clientY;
  }
}

/** Colour a heat map: the colour table is interpolated, and no heat is transparent. */
export function colorHeat(levels, rows, columns, colors) {
  const picture = document.createElement("canvas");
  picture.width = columns;
  picture.height = rows;
  const image = new ImageData(columns, rows);
  for (let index = 0; index < rows * columns; index++) {
    const level = levels[index];
    const at = (level / 255) * (colors.length - 1);
    const [below, above] = [colors[Math.floor(at)], colors[Math.ceil(at)]];
    const share = at - Math.floor(at);
    for (let channel = 0; channel < 3; channel++) {
      image.data[4 * index + channel] = Math.round(below[channel] * (1 - share) + above[channel] * share);
    }
    image.data[4 * index + 3] = level;
  }
  picture.getContext("2d").putImageData(image, 0, 0);
  return picture;
}
