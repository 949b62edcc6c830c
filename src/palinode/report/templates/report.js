"use strict";
// Draws the charts of the page. Their data is JSON, compressed with gzip and written in base64. The data is stored by column
// (texts as indices into a list of words), and this script turns the columns into rows.
(() => {
  const LETTER_PIXELS = 6.6; // the mean width of a letter in the title of an axis
  const PAPER_PIXELS = 640; // the width of a chart on a printed page, A4 or letter
  const RESIZE_MILLISECONDS = 150; // the charts are drawn for a new window width when the width has not changed for this time
  let page = null;
  let drawnAtPixels = 0;
  let waiting = 0;
  const darkPaper = window.matchMedia("screen and (prefers-color-scheme: dark)");

  async function unpacked(text) {
    const bytes = Uint8Array.from(atob(text), (character) => character.charCodeAt(0));
    const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
    return JSON.parse(await new Response(stream).text());
  }

  function rowsOf(columns) {
    const names = Object.keys(columns);
    const cells = names.map((name) => {
      const column = columns[name];
      return column.words ? column.at.map((place) => column.words[place]) : column;
    });
    const rows = [];
    for (let i = 0; names.length && i < cells[0].length; i += 1) {
      const row = {};
      names.forEach((name, j) => { if (cells[j][i] !== null) row[name] = cells[j][i]; });
      rows.push(row);
    }
    return rows;
  }

  function chosen(figure, what) {
    const radio = figure.querySelector(`input[name^="${what}-"]:checked`);
    return radio ? radio.value : "";
  }

  // The chart on logarithmic axes, without the points at 0. `charts.with_log_axes` makes the same change for the SVG and PDF files.
  function withLogAxes(chart, x) {
    const stretched = (channel) => {
      const { zero, ...kept } = channel.scale || {};
      return { ...channel, scale: { ...kept, type: "log", nice: false } };
    };
    const layer = chart.layer.map((one) => {
      const encoding = { ...one.encoding };
      for (const name of ["x", "y"]) if (encoding[name]) encoding[name] = stretched(encoding[name]);
      return { ...one, encoding };
    });
    const positive = [x, "value"].map((field) => ({ filter: { field, gt: 0 } }));
    return { ...chart, layer, transform: [...(chart.transform || []), ...positive] };
  }

  // The chart with the titles of its x-axis broken into lines that are not wider than the plot: Vega itself does not break titles.
  function withShortTitles(chart, pixels) {
    const most = Math.max(12, Math.floor(pixels / LETTER_PIXELS));
    const broken = (title) => {
      const lines = [""];
      for (const word of title.split(" ")) {
        const longer = `${lines.at(-1)} ${word}`.trim();
        if (longer.length <= most || !lines.at(-1)) lines[lines.length - 1] = longer; else lines.push(word);
      }
      return lines.length > 1 ? lines : title;
    };
    const layer = chart.layer.map((one) => {
      const x = one.encoding?.x;
      return typeof x?.title === "string" ? { ...one, encoding: { ...one.encoding, x: { ...x, title: broken(x.title) } } } : one;
    });
    return { ...chart, layer };
  }

  function titlesFit(chart, pixels) {
    return chart.layer.every((one) => typeof one.encoding?.x?.title !== "string" || one.encoding.x.title.length * LETTER_PIXELS <= pixels);
  }

  async function draw(figure) {
    const described = page.figures[figure.dataset.figure];
    const canvas = figure.querySelector(".canvas");
    if (figure.view) figure.view.finalize();
    const axis = chosen(figure, "axis");
    const direction = chosen(figure, "direction");
    const rows = rowsOf(described.columns).filter((row) => !direction || row.direction === direction);
    const log = figure.querySelector('input[name^="log-"]:checked');
    const places = described.charts;
    const linear = page.specifications[axis in places ? places[axis] : Object.values(places)[0]];
    const chart = { ...(log ? withLogAxes(linear, axis) : linear), datasets: { [page.rows_name]: rows } };
    const options = {
      mode: "vega-lite",
      ast: true, // Vega interprets its expressions, because the page's security policy forbids making code from text
      renderer: "svg",
      actions: false,
      defaultStyle: false,
      tooltip: { disableDefaultStyle: true },
      config: darkPaper.matches ? page.config.dark : page.config.light,
    };
    let drawn = await window.vegaEmbed(canvas, chart, options);
    const plot = drawn.view.width();
    if (!titlesFit(chart, plot)) {
      drawn.finalize();
      drawn = await window.vegaEmbed(canvas, withShortTitles(chart, plot), options);
    }
    figure.view = drawn;
    figure.dataset.drawn = axis || "yes";
    figure.dataset.axes = log ? "log" : "linear";
  }

  // Draws all charts, and again if the window got another width meanwhile: Vega fits a chart to the new width, but not its titles.
  async function drawAll() {
    do {
      drawnAtPixels = window.innerWidth;
      for (const figure of document.querySelectorAll("figure[data-figure]")) await draw(figure);
    } while (window.innerWidth !== drawnAtPixels);
    document.documentElement.dataset.charts = "drawn";
  }

  function drawForNewWidth() {
    clearTimeout(waiting);
    waiting = setTimeout(() => { if (window.innerWidth !== drawnAtPixels) drawAll(); }, RESIZE_MILLISECONDS);
  }

  // On paper a chart is as wide as the paper, so that its letters keep their size.
  function forPaper(figure, pixels) {
    const view = figure.view?.view;
    if (!view || figure.classList.contains("map")) return;
    const axesPixels = figure.querySelector("svg.marks").clientWidth - view.width();
    figure.screenPixels ??= view.width();
    view.width(pixels ? Math.min(figure.screenPixels, pixels - axesPixels) : figure.screenPixels).run();
    if (!pixels) delete figure.screenPixels;
  }

  async function start() {
    const figures = document.querySelectorAll("figure[data-figure]");
    if (!window.DecompressionStream) {
      const message = "This browser is too old for the charts. They lie as SVG and PDF in the folder figures beside this file.";
      for (const figure of figures) figure.querySelector(".canvas").textContent = message;
      return;
    }
    page = await unpacked(document.getElementById("palinode-data").textContent);
    for (const figure of figures) figure.addEventListener("change", () => draw(figure));
    window.addEventListener("beforeprint", () => figures.forEach((figure) => forPaper(figure, PAPER_PIXELS)));
    window.addEventListener("afterprint", () => figures.forEach((figure) => forPaper(figure, 0)));
    window.addEventListener("resize", drawForNewWidth);
    darkPaper.addEventListener("change", drawAll);
    await drawAll();
  }

  start();
})();
