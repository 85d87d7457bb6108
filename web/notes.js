// Takes a node's notes of an earlier run away when it runs again: the page itself keeps them until it is loaded anew.
import { api } from "../../scripts/api.js";
import { app } from "../../scripts/app.js";

const NAME = "$$node-text-preview";
const SPEAKER = "null-text inversion: ";

// "5:3" is node 3 of the subgraph that is node 5
function nodeOf(place) {
  let graph = app.graph?.rootGraph ?? app.graph;
  let node;
  for (const id of String(place).split(":")) {
    node = graph?.getNodeById(Number(id)) ?? graph?.getNodeById(id);
    graph = node?.subgraph;
  }
  return node;
}

function forget(node) {
  const place = node?.widgets?.findIndex((one) => one.name === NAME && String(one.value).startsWith(SPEAKER)) ?? -1;
  if (place < 0) return;
  node.widgets[place].onRemove?.();
  node.widgets.splice(place, 1);
  node.setDirtyCanvas?.(true, true);
}

app.registerExtension({
  name: "nullinv.notes",
  setup() {
    // a node that stands for several parts runs several times, and its first parts may have told something
    let begun = new Set();
    api.addEventListener("execution_start", () => (begun = new Set()));
    api.addEventListener("executing", ({ detail: place }) => {
      if (place === null || place === undefined || begun.has(place)) return;
      begun.add(place);
      forget(nodeOf(place));
    });
  },
});
