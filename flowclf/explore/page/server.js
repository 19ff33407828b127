// Questions go to the server that the page came from.
const token = new URLSearchParams(location.search).get("token") ?? "";

async function post(path, body, type) {
  const headers = { "Content-Type": type, "X-Flowclf-Token": token };
  let answer;
  try {
    answer = await fetch(path, { method: "POST", headers, body });
  } catch {
    throw new Error("no answer: has flowclf explore ended?");
  }
  const found = await answer.json();
  if (!answer.ok) throw new Error(found.error);
  return found;
}

export const canFilm = true, canAttribute = true, canTakePictures = true;
export const ask = (run, name, question = {}) =>
  post(`call/${run}/${name}`, JSON.stringify(question), "application/json");
export const fit = (run, file) => post(`picture/${run}`, file, file.type);
