// A film on a canvas. It comes as a picture of 16 bits, the upper half in red and the lower in green, so that a narrow
// window shows no steps; window and level are applied here.
const SIZE = 1536;
const GREYS = 65536;
const LEAST_WIDTH = 0.02;

export class Film {
  constructor(canvas, state, readout) {
    [this.canvas, this.state, this.readout] = [canvas, state, readout];
    this.pointers = new Map();
    this.picture = document.createElement("canvas");
    this.reset();
    canvas.addEventListener("pointerdown", (event) => this.down(event));
    canvas.addEventListener("pointermove", (event) => this.move(event));
    for (const end of ["pointerup", "pointercancel"]) canvas.addEventListener(end, (event) => this.pointers.delete(event.pointerId));
    canvas.addEventListener("wheel", (event) => this.wheel(event), { passive: false });
    canvas.addEventListener("keydown", (event) => this.key(event));
    canvas.addEventListener("dblclick", () => this.use("reset"));
    new ResizeObserver(() => this.draw()).observe(canvas);
  }

  reset() {
    [this.centre, this.width, this.zoom, this.x, this.y] = [0.5, 1, 1, 0, 0];
  }

  async load(number) {
    this.wanted = number;
    this.state.textContent = "The film is being fetched …";
    try {
      const answer = await fetch(`${this.canvas.dataset.src}?form=packed&size=${SIZE}&number=${number}`);
      if (number !== this.wanted) return;
      if (!answer.ok) {
        this.canvas.hidden = true; // what it shows is another film
        const problem = await answer.json().catch(() => ({}));
        this.state.textContent = problem.detail || "The film cannot be shown.";
        return;
      }
      const bitmap = await createImageBitmap(await answer.blob(), { colorSpaceConversion: "none", premultiplyAlpha: "none" });
      if (number !== this.wanted) return;
      this.unpack(bitmap);
    } catch {
      if (number !== this.wanted) return;
      this.canvas.hidden = true;
      this.state.textContent = "The film cannot be fetched.";
      return;
    }
    this.state.textContent = "";
    this.canvas.hidden = false;
    this.reset();
    this.window();
  }

  unpack(bitmap) {
    Object.assign(this.picture, { width: bitmap.width, height: bitmap.height });
    const context = this.picture.getContext("2d", { willReadFrequently: true });
    context.drawImage(bitmap, 0, 0);
    this.image = context.getImageData(0, 0, bitmap.width, bitmap.height);
    this.values = new Uint16Array(bitmap.width * bitmap.height);
    for (let i = 0; i < this.values.length; i++) this.values[i] = this.image.data[4 * i] * 256 + this.image.data[4 * i + 1];
  }

  // Through the window, into greys.
  window() {
    if (!this.values) return;
    const table = new Uint8ClampedArray(GREYS);
    for (let i = 0; i < GREYS; i++) {
      const grey = 255 * ((i / (GREYS - 1) - this.centre) / this.width + 0.5);
      table[i] = this.isInverted ? 255 - grey : grey;
    }
    const { data } = this.image;
    for (let i = 0; i < this.values.length; i++) data[4 * i] = data[4 * i + 1] = data[4 * i + 2] = table[this.values[i]];
    this.picture.getContext("2d").putImageData(this.image, 0, 0);
    this.draw();
  }

  draw() {
    if (!this.values) return;
    const [width, height] = [this.canvas.clientWidth, this.canvas.clientHeight].map((side) => Math.round(side * devicePixelRatio));
    if (this.canvas.width !== width || this.canvas.height !== height) Object.assign(this.canvas, { width, height });
    const context = this.canvas.getContext("2d");
    const scale = Math.min(width / this.picture.width, height / this.picture.height) * this.zoom;
    const [w, h] = [this.picture.width * scale, this.picture.height * scale];
    context.imageSmoothingQuality = "high";
    context.clearRect(0, 0, width, height);
    context.drawImage(this.picture, (width - w) / 2 + this.x * devicePixelRatio, (height - h) / 2 + this.y * devicePixelRatio, w, h);
    this.readout.textContent = `level ${this.centre.toFixed(2)}, window ${this.width.toFixed(2)}, ${Math.round(this.zoom * 100)} %`;
  }

  use(tool) {
    if (tool === "reset") this.reset();
    if (tool === "invert") this.isInverted = !this.isInverted;
    if (tool === "in") this.scale(1.25);
    else if (tool === "out") this.scale(0.8);
    else this.window();
  }

  // What lies under (x, y), from the middle of the canvas, stays there.
  scale(by, x = 0, y = 0) {
    const zoom = Math.min(16, Math.max(0.5, this.zoom * by));
    const real = zoom / this.zoom;
    [this.x, this.y, this.zoom] = [x + (this.x - x) * real, y + (this.y - y) * real, zoom];
    this.draw();
  }

  level(across, up) {
    this.width = Math.min(2, Math.max(LEAST_WIDTH, this.width + across));
    this.centre = Math.min(1, Math.max(0, this.centre + up));
    if (!this.isWaiting) {
      this.isWaiting = true;
      requestAnimationFrame(() => {
        this.isWaiting = false;
        this.window();
      });
    }
  }

  fromMiddle(event) {
    const box = this.canvas.getBoundingClientRect();
    return [event.clientX - box.left - box.width / 2, event.clientY - box.top - box.height / 2];
  }

  down(event) {
    this.canvas.setPointerCapture(event.pointerId);
    this.pointers.set(event.pointerId, event);
  }

  move(event) {
    const before = this.pointers.get(event.pointerId);
    if (!before) return;
    const [dx, dy] = [event.clientX - before.clientX, event.clientY - before.clientY];
    if (this.pointers.size === 2) this.pinch(event, dx / 2, dy / 2);
    else if (event.shiftKey) this.pan(dx, dy);
    else this.level(dx / 400, dy / 400);
    this.pointers.set(event.pointerId, event);
  }

  pinch(event, dx, dy) {
    const [other] = [...this.pointers.values()].filter((each) => each.pointerId !== event.pointerId);
    const before = this.pointers.get(event.pointerId);
    const apart = (each) => Math.hypot(each.clientX - other.clientX, each.clientY - other.clientY);
    const middle = { clientX: (event.clientX + other.clientX) / 2, clientY: (event.clientY + other.clientY) / 2 };
    this.pan(dx, dy);
    this.scale(apart(event) / Math.max(1, apart(before)), ...this.fromMiddle(middle));
  }

  pan(dx, dy) {
    this.x += dx;
    this.y += dy;
    this.draw();
  }

  wheel(event) {
    event.preventDefault();
    this.scale(Math.exp(-event.deltaY / 500), ...this.fromMiddle(event));
  }

  key(event) {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const keys = {
      "+": () => this.scale(1.25),
      "=": () => this.scale(1.25),
      "-": () => this.scale(0.8),
      0: () => this.use("reset"),
      i: () => document.querySelector('[data-tool="invert"]').click(),
      ArrowLeft: () => this.level(-0.05, 0),
      ArrowRight: () => this.level(0.05, 0),
      ArrowUp: () => this.level(0, -0.05),
      ArrowDown: () => this.level(0, 0.05),
    };
    if (!keys[event.key]) return;
    event.preventDefault();
    keys[event.key]();
  }
}
