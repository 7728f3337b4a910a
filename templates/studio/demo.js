// Only the page on which a model is tried.
import { $, ask, attempt } from "./common.js";
import { mount } from "./tryit.js";

const told = await attempt(() => ask("/v1/models"));
const models = (told?.data || []).map((model) => model.id);
$("#base").textContent = location.origin;
$("#model").textContent = models[0] || "MODEL";
mount($("#try"), { models });
