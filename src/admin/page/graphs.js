// The small graphs: one point a second, the newest at the right.

const POINTS = 300;
const HEIGHT = 40;

// Draws lines of values, of which null is a gap, and says in words what they come to.
function drawGraph(svg, label, write, ...lines) {
  const values = lines.flat().filter((value) => value !== null && value !== undefined);
  const most = Math.max(...values, 0);
  const top = most > 0 ? most * 1.1 : 1;
  setAttribute(svg, 'viewBox', `0 0 ${POINTS} ${HEIGHT}`);
  setAttribute(svg, 'preserveAspectRatio', 'none');
  while (svg.children.length < lines.length * 2) {
    const path = document.createElementNS(SVG, 'path');
    path.setAttribute('class', svg.children.length % 2 === 0 ? 'area' : 'line');
    svg.append(path);
  }
  lines.forEach((line, index) => {
    const [area, path] = [svg.children[index * 2], svg.children[index * 2 + 1]];
    const { filled, stroked } = outline(line.slice(-POINTS), top);
    setAttribute(area, 'd', filled);
    setAttribute(path, 'd', stroked);
  });
  const newest = lines.map((line) => line.at(-1)).filter((value) => value !== null && value !== undefined);
  const said = values.length === 0 ? 'nothing yet' : `most ${write(most)}, now ${newest.map(write).join(' and ') || 'nothing'}`;
  setAttribute(svg, 'aria-label', `${label}, the last five minutes: ${said}`);
}

function outline(line, top) {
  const left = POINTS - line.length;
  let filled = '';
  let stroked = '';
  let begun = null;
  line.forEach((value, index) => {
    const x = left + index + 0.5;
    if (value === null || value === undefined) {
      if (begun !== null) filled += `V${HEIGHT}H${begun}Z`;
      begun = null;
      return;
    }
    const y = (HEIGHT - 1 - (value / top) * (HEIGHT - 2)).toFixed(1);
    if (begun === null) {
      begun = x;
      filled += `M${x} ${HEIGHT}V${y}`;
      stroked += `M${x} ${y}`;
    }
    filled += `L${x} ${y}`;
    stroked += `L${x} ${y}`;
  });
  if (begun !== null) filled += `V${HEIGHT}H${begun}Z`;
  return { filled, stroked };
}
