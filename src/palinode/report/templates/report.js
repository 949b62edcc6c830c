"use strict";
// Draws the charts of the page. The data is JSON under gzip in base64. It comes by column (texts as indices into a list of words) and is turned into rows here.
(() => {
  let page = null;
  const darkPaper = window.matchMedia("(prefers-color-scheme: dark)");

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

  // The same chart on logarithmic axes; what lies at 0 cannot be drawn there. The files beside the page are made likewise.
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
    const drawn = await window.vegaEmbed(canvas, chart, {
      mode: "vega-lite",
      ast: true, // expressions are interpreted: the page's policy forbids making code from text
      renderer: "svg",
      actions: false,
      defaultStyle: false,
      tooltip: { disableDefaultStyle: true },
      config: darkPaper.matches ? page.config.dark : page.config.light,
    });
    figure.view = drawn;
    figure.dataset.drawn = axis || "yes";
    figure.dataset.axes = log ? "log" : "linear";
  }

  async function drawAll() {
    for (const figure of document.querySelectorAll("figure[data-figure]")) await draw(figure);
    document.documentElement.dataset.charts = "drawn";
  }

  async function start() {
    const figures = document.querySelectorAll("figure[data-figure]");
    if (!window.DecompressionStream) {
      const said = "This browser is too old for the charts. They lie as SVG and PDF in the folder figures beside this file.";
      for (const figure of figures) figure.querySelector(".canvas").textContent = said;
      return;
    }
    page = await unpacked(document.getElementById("palinode-data").textContent);
    for (const figure of figures) figure.addEventListener("change", () => draw(figure));
    darkPaper.addEventListener("change", drawAll);
    await drawAll();
  }

  start();
})();
