// The benchmarks' job in JavaScript, for workerd: what `tests/guests/work` does, path by path.

const MEBIBYTE = 1 << 20;

// xorshift (Marsaglia 2003) in 32 bits, the widest integers JavaScript shifts at full speed.
function compute(turns) {
  let word = 0x9e3779b9 | 0;
  for (let turn = 0; turn < turns; turn++) {
    word ^= word << 13;
    word ^= word >>> 17;
    word ^= word << 5;
  }
  return word;
}

function grow(mebibytes) {
  const held = [];
  for (let taken = 0; taken < mebibytes; taken++) {
    held.push(new Uint8Array(MEBIBYTE).fill(1));
  }
  return held.length;
}

function fill(mebibytes, turns) {
  const block = new Uint8Array(mebibytes * MEBIBYTE);
  for (let turn = 0; turn < turns; turn++) {
    block.fill(turn);
  }
  return block[0];
}

function allocate(count) {
  const held = [];
  for (let number = 0; number < count; number++) {
    held.push(new Uint8Array(16 + ((number * 37) % 480)).fill(number));
  }
  return held.length;
}

export default {
  async fetch(request) {
    const url = new URL(request.url);
    const number = (name, otherwise) => Number(url.searchParams.get(name) ?? otherwise);
    switch (url.pathname) {
      case "/":
        return new Response("hello from ringfence\n");
      case "/compute":
        return new Response(`${compute(number("n", Infinity))}\n`);
      case "/memgrow":
        return new Response(`${grow(number("mib", 96))}\n`);
      case "/bulkmem":
        return new Response(`${fill(number("mib", 62), number("n", Infinity))}\n`);
      case "/allocstorm":
        return new Response(`${allocate(number("n", 100000))}\n`);
      case "/swallow":
        return new Response(`${(await request.arrayBuffer()).byteLength} bytes\n`);
      default:
        return new Response("nothing to do\n", { status: 404 });
    }
  },
};
