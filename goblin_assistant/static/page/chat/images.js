// Images of a message: made small enough to send and keep, as data: addresses.

const KINDS = ["image/png", "image/jpeg", "image/gif", "image/webp"];
/** Providers make a longer side smaller anyway. */
const LONGEST_SIDE = 1568;
const LARGEST_BYTES = 1_000_000;
export const MOST_IMAGES = 10;

/** The image files of a paste, a drop or a choice. */
export function imagesOf(transfer) {
  return [...(transfer?.files ?? [])].filter((file) => file.type.startsWith("image/"));
}

/** A file as a data: address. Raises Error with a sentence when it is no image. */
export async function dataOf(file) {
  let picture;
  try {
    picture = await createImageBitmap(file);
  } catch {
    throw new Error(`${file.name || "This file"} is no image that can be read.`);
  }
  const longest = Math.max(picture.width, picture.height);
  const keep = KINDS.includes(file.type) && longest <= LONGEST_SIDE && file.size <= LARGEST_BYTES;
  const blob = keep ? file : await smaller(picture, Math.min(1, LONGEST_SIDE / longest));
  picture.close();
  return addressOf(blob);
}

async function smaller(picture, scale) {
  const width = Math.max(1, Math.round(picture.width * scale));
  const height = Math.max(1, Math.round(picture.height * scale));
  const canvas = new OffscreenCanvas(width, height);
  const pen = canvas.getContext("2d");
  pen.fillStyle = "#ffffff"; // JPEG has no transparency
  pen.fillRect(0, 0, width, height);
  pen.drawImage(picture, 0, 0, width, height);
  return canvas.convertToBlob({ type: "image/jpeg", quality: 0.85 });
}

function addressOf(blob) {
  return new Promise((resolve, reject) => {
    const reader = new FileReader();
    reader.onload = () => resolve(reader.result);
    reader.onerror = () => reject(new Error("The image could not be read."));
    reader.readAsDataURL(blob);
  });
}
