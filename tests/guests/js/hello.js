// A component in JavaScript, made with componentize-js: the fetch event is the handler. It knows nothing of Ringfence.
addEventListener("fetch", (event) => event.respondWith(answer(event.request)));

async function answer(request) {
  const { pathname } = new URL(request.url);
  if (pathname === "/echo") return new Response(await request.text());
  return new Response(`hello from JavaScript at ${pathname}\n`, { headers: { "content-type": "text/plain" } });
}
