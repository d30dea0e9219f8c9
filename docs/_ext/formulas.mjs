// Formulas in TeX, one a line of JSON, become HTML with MathML for who listens: one answer a line.
import { createInterface } from "node:readline";
import { pathToFileURL } from "node:url";

const { default: katex } = await import(pathToFileURL(process.argv[2]));
for await (const line of createInterface({ input: process.stdin })) {
  const { tex, block } = JSON.parse(line);
  try {
    const html = katex.renderToString(tex, { displayMode: block, strict: "error" });
    console.log(JSON.stringify({ html }));
  } catch (error) {
    console.log(JSON.stringify({ error: error.message }));
  }
}
