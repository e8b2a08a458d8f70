const names = ["ready", "due", "busy", "down", "failed", "unknown"];

// FleetMap shows each server of the fleet as a tile. It is one stop of the tabulator key; the arrow keys go from tile to tile.
export class FleetMap {
  tiles = Object.create(null);
  total = 0;
  counts = names.map(() => 0);

  constructor(element) {
    this.element = element;
    element.addEventListener("keydown", (e) => this.move(e));
    element.addEventListener("focusin", (e) => this.stop(e.target));
  }

  // apply applies a message of the stream: the whole map, or changes of it.
  apply(changes) {
    if (changes.reset) {
      this.tiles = Object.create(null);
      this.total = 0;
      this.counts = names.map(() => 0);
      const all = document.createDocumentFragment();
      for (const [name, state] of changes.all ?? []) all.append(this.make(name, state));
      this.element.replaceChildren(all);
    }
    for (const [name, state] of changes.set ?? []) {
      const tile = this.tiles[name];
      if (!tile) this.element.append(this.make(name, state));
      else this.show(tile, name, state);
    }
    for (const name of changes.gone ?? []) this.remove(name);
    this.element.className = this.total > 4000 ? "crowd" : this.total > 400 ? "many" : "";
    if (!this.element.querySelector("[tabindex='0']")) this.element.firstElementChild?.setAttribute("tabindex", "0");
    this.count();
  }

  make(name, state) {
    const tile = document.createElement("a");
    tile.href = "/servers/" + encodeURIComponent(name);
    tile.tabIndex = -1;
    this.tiles[name] = tile;
    this.total++;
    this.counts[state]++;
    this.label(tile, name, state);
    return tile;
  }

  label(tile, name, state) {
    tile.className = "tile " + names[state];
    tile.state = state;
    tile.title = name + ": " + names[state];
    tile.setAttribute("aria-label", tile.title);
  }

  show(tile, name, state) {
    this.counts[tile.state]--;
    this.counts[state]++;
    this.label(tile, name, state);
  }

  remove(name) {
    const tile = this.tiles[name];
    if (!tile) return;
    this.counts[tile.state]--;
    this.total--;
    tile.remove();
    delete this.tiles[name];
  }

  // count shows the numbers of the tiles.
  count() {
    names.forEach((name, i) => {
      const shown = document.querySelector("[data-count='" + name + "']");
      if (shown && this.element.firstElementChild) shown.textContent = this.counts[i];
    });
  }

  stop(tile) {
    for (const other of this.element.querySelectorAll("[tabindex='0']")) other.tabIndex = -1;
    tile.tabIndex = 0;
  }

  move(e) {
    const tile = e.target;
    const row = () => {
      const width = this.element.clientWidth / (tile.getBoundingClientRect().width + 2);
      return Math.max(1, Math.floor(width));
    };
    const all = [...this.element.children];
    const steps = { ArrowRight: 1, ArrowLeft: -1, ArrowDown: row(), ArrowUp: -row(), Home: -all.length, End: all.length };
    if (!(e.key in steps)) return;
    e.preventDefault();
    const at = Math.min(all.length - 1, Math.max(0, all.indexOf(tile) + steps[e.key]));
    all[at].focus();
  }
}
