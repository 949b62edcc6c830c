"use strict";
// Draws the charts of the page. Data comes by column (texts as indices into a list of words) and is turned into rows here.
(() => {
  const page = JSON.parse(document.getElementById("palinode-data").textContent);
  const darkPaper = window.matchMedia("(prefers-color-scheme: dark)");

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

  async function draw(figure) {
    const described = page.figures[figure.dataset.figure];
    const canvas = figure.querySelector(".canvas");
    if (figure.view) figure.view.finalize();
    const axis = chosen(figure, "axis");
    const direction = chosen(figure, "direction");
    const rows = rowsOf(described.columns).filter((row) => !direction || row.direction === direction);
    const chart = { ...described.charts[axis], datasets: { [page.rows_name]: rows } };
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
  }

  async function drawAll() {
    for (const figure of document.querySelectorAll("figure[data-figure]")) await draw(figure);
    document.documentElement.dataset.charts = "drawn";
  }

  for (const figure of document.querySelectorAll("figure[data-figure]")) {
    figure.addEventListener("change", () => draw(figure));
  }
  darkPaper.addEventListener("change", drawAll);
  drawAll();
})();
